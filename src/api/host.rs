//! The host's event loop: the descriptor, dispatching what waits, and the end.

use std::ffi::{CStr, c_int};
use std::time::Duration;

use super::{arguments, inst};
use crate::codec::label;
use crate::error::{Code, Error};
use crate::executor::{self, Outcome};
use crate::lua::{self, lua_CFunction, lua_Integer, lua_State};
use crate::runtime::{Inst, dispatch, report, sweep};

/// What the prelude calls.
pub const FUNCTIONS: &[(&CStr, lua_CFunction)] =
    &[(c"fd", fd), (c"poll", poll), (c"wait", wait), (c"pending", pending)];

/// At exit, how long no task may end before the rest is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// `fd()` -> descriptor.
unsafe extern "C-unwind" fn fd(state: *mut lua_State) -> c_int {
    // SAFETY: the error is in the inst when Lua raises it.
    unsafe {
        let inst = inst(state);
        match (*inst).expose() {
            Ok(fd) => lua::lua_pushinteger(state, lua_Integer::from(fd)),
            Err(error) => {
                (*inst).failure = Some(Error::new(Code::Unsupported, error.to_string()));
                arguments::raise_failure(inst, state);
            }
        }
    }
    1
}

/// Dispatches at most `most` of what waits; returns how many.
unsafe fn drain(inst: *mut Inst, state: *mut lua_State, most: usize) -> usize {
    // SAFETY: the inst is borrowed for single statements, since completions run in between.
    unsafe {
        let mut count = (*inst).collect();
        while count < most {
            let Some(task) = (*inst).waiting.pop_front() else { break };
            dispatch(inst, state, task);
            count += 1;
        }
        sweep(inst, state);
        (*inst).settle();
        count
    }
}

/// `poll([max])` -> how many outcomes were delivered.
unsafe extern "C-unwind" fn poll(state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned here.
    unsafe {
        let inst = inst(state);
        let most = match lua::lua_type(state, 1) {
            lua::LUA_TNONE | lua::LUA_TNIL => usize::MAX,
            lua::LUA_TNUMBER if lua::lua_tonumber(state, 1) >= 1.0 => lua::lua_tonumber(state, 1) as usize,
            _ => arguments::raise_here(state, c"poll: max must be a number from 1 or nil", 1),
        };
        lua::luaL_checkstack(state, 20, std::ptr::null());
        let count = drain(inst, state, most);
        lua::lua_pushinteger(state, count as lua_Integer);
    }
    1
}

/// `wait([timeout])` -> how many outcomes were delivered, 0 on timeout. With no task pending and no timeout
/// there is nothing to wait for: 0 at once.
unsafe extern "C-unwind" fn wait(state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned here.
    unsafe {
        let inst = inst(state);
        let forever = lua::lua_type(state, 1) <= lua::LUA_TNIL;
        let deadline =
            arguments::deadline_here(state, 1, c"wait: timeout must be a number of seconds or nil");
        lua::luaL_checkstack(state, 20, std::ptr::null());
        let mut count = drain(inst, state, usize::MAX);
        if count == 0 && !(forever && (*inst).pending == 0) {
            let pending = (*inst).pending;
            (*inst).block_until(deadline, |inst| !inst.waiting.is_empty() || inst.pending != pending);
            // Outcomes of futures are delivered by their arrival.
            count = pending - (*inst).pending;
            count += drain(inst, state, usize::MAX);
        }
        lua::lua_pushinteger(state, count as lua_Integer);
    }
    1
}

/// `pending()` -> tasks whose outcome has not been delivered.
unsafe extern "C-unwind" fn pending(state: *mut lua_State) -> c_int {
    // SAFETY: one value.
    unsafe {
        let inst = inst(state);
        (*inst).collect();
        (*inst).settle();
        lua::lua_pushinteger(state, (*inst).pending as lua_Integer);
    }
    1
}

/// A state closes: the last host's ends the pools first. Never raises.
///
/// # Safety
/// Called by the finalizer of the state's slot.
pub unsafe fn close(inst: *mut Inst, state: *mut lua_State) {
    // SAFETY: the inst is borrowed for single statements; `report` runs the prelude only.
    unsafe {
        if (*inst).worker.is_none() {
            for (thread, code) in executor::close_host(PATIENCE) {
                let place = label(code);
                let place = place.as_deref().unwrap_or("?");
                eprintln!("threadpool: gave up waiting for {thread}, which still runs the task {place}");
            }
        }
        (*inst).closing = true;
        let handler = (*inst).refs.last_report;
        for task in (*inst).close() {
            if !matches!(task.outcome, Outcome::Returned) {
                report(inst, state, &task, handler);
            }
        }
    }
}

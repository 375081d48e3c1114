//! Outcomes on their last steps: onto the Lua stack, into a completion, or to `on_error`.
//!
//! Nothing here raises: what may is done in protected calls, since a task is owned meanwhile.

use std::ffi::c_int;

use super::inst::Inst;
use super::tickets::{Kind, slot_of};
use crate::codec::label;
use crate::error::{Code, Error};
use crate::executor::{Outcome, Task};
use crate::lua::{self, lua_Integer, lua_State};
use crate::transfer::Transfer;

/// Pushes the outcome of a task, pcall-shaped: `true, ...` or `false, err`; for a failure of user code the
/// traceback follows, which is not part of what users get. Returns how many values were pushed.
///
/// # Safety
/// `state` is the running thread of the inst's state, with ten stack slots free.
pub unsafe fn push(inst: *mut Inst, state: *mut lua_State, task: &Task) -> c_int {
    // SAFETY: `decode` pushes what it says.
    unsafe {
        let returned = match &task.outcome {
            Outcome::Returned => true,
            Outcome::Raised => false,
            Outcome::Failed(error) => return push_failure(inst, state, error),
            Outcome::Pending => {
                return push_failure(inst, state, &Error::new(Code::Lost, "the task has no outcome"));
            }
        };
        lua::lua_pushboolean(state, c_int::from(returned));
        match Transfer::decode(&raw mut (*inst).transfer, state, &task.packet, false) {
            Ok((count, _)) if task.carries_tls => {
                merge_tls(inst, state);
                count
            }
            Ok((count, _)) => count + 1,
            Err(error) => {
                lua::lua_pop(state, 1);
                push_failure(inst, state, &error)
            }
        }
    }
}

/// Pushes `false` and an error object.
///
/// # Safety
/// As for [`push`].
pub unsafe fn push_failure(inst: *mut Inst, state: *mut lua_State, error: &Error) -> c_int {
    // SAFETY: two values.
    unsafe {
        lua::lua_pushboolean(state, 0);
        push_error(inst, state, error);
    }
    2
}

/// Pushes an error object: a table with `code` and `text`. Without memory for it, Lua's own message.
///
/// # Safety
/// As for [`push`].
pub unsafe fn push_error(inst: *mut Inst, state: *mut lua_State, error: &Error) {
    // SAFETY: the inst is alive; a plain read.
    let metatable = unsafe { (*inst).refs.error };
    // SAFETY: the closure borrows only. On failure the error value takes the object's place.
    unsafe {
        (*inst).protect.call(state, 0, |state| {
            lua::lua_createtable(state, 0, 2);
            for (key, value) in [(c"code", error.code.name()), (c"text", &error.text)] {
                lua::lua_pushliteral(state, key);
                lua::push_bytes(state, value.as_bytes());
                lua::lua_rawset(state, -3);
            }
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, metatable.into());
            lua::lua_setmetatable(state, -2);
            1
        });
    }
}

/// Takes the `_TLS` that a task brought back off the top, into that of the running coroutine.
unsafe fn merge_tls(inst: *mut Inst, state: *mut lua_State) {
    // SAFETY: the inst is alive; a plain read.
    let merge = unsafe { (*inst).refs.merge };
    // SAFETY: one argument in, nothing out, whether it fails (for lack of memory) or not.
    unsafe {
        let status = (*inst).protect.call(state, 1, |state| {
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, merge.into());
            lua::lua_pushvalue(state, 2);
            lua::lua_call(state, 1, 0);
            0
        });
        if status != lua::LUA_OK {
            lua::lua_pop(state, 1);
        }
    }
}

/// Delivers a task that ended and that `poll` found: runs its completion, or reports its failure.
///
/// # Safety
/// As for [`push`].
pub unsafe fn dispatch(inst: *mut Inst, state: *mut lua_State, task: Box<Task>) {
    // SAFETY: balanced; the inst is borrowed for single statements, since user code runs in between.
    unsafe {
        (*inst).pending -= 1;
        let top = lua::lua_gettop(state);
        if Kind::of(task.ticket) == Kind::Callback {
            complete(inst, state, &task);
        } else if !matches!(task.outcome, Outcome::Returned) {
            report(inst, state, &task, (*inst).refs.report);
        }
        lua::lua_settop(state, top);
        (*inst).recycle(task);
    }
}

/// Reports failed tasks whose future was collected before anybody looked, and lets go of the others. Cheap
/// when nothing failed and few tickets are out.
///
/// # Safety
/// As for [`push`].
pub unsafe fn sweep(inst: *mut Inst, state: *mut lua_State) {
    // SAFETY: balanced; the weak table is only read.
    unsafe {
        if (*inst).failures.is_empty() && !(*inst).tickets.wants_sweep() {
            return;
        }
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.futures.into());
        let is_alive = |slot: usize| {
            lua::lua_rawgeti(state, -1, slot as lua_Integer);
            let alive = lua::lua_isnil(state, -1) == 0;
            lua::lua_pop(state, 1);
            alive
        };
        let mut orphans = Vec::new();
        let mut failures = std::mem::take(&mut (*inst).failures);
        failures.retain(|ticket| {
            let alive = is_alive(slot_of(*ticket));
            if !alive {
                orphans.extend((*inst).tickets.take(*ticket));
            }
            alive && (*inst).tickets.peek(*ticket).is_some()
        });
        (*inst).failures = failures;
        if (*inst).tickets.wants_sweep() {
            orphans.extend((*inst).tickets.sweep(is_alive));
        }
        lua::lua_pop(state, 1);
        for task in orphans {
            if !matches!(task.outcome, Outcome::Returned) {
                report(inst, state, &task, (*inst).refs.report);
            }
            (*inst).recycle(task);
        }
    }
}

/// Runs the completion that this state keeps for a task.
unsafe fn complete(inst: *mut Inst, state: *mut lua_State, task: &Task) {
    // SAFETY: the inst is alive; a plain read.
    let callbacks = unsafe { (*inst).refs.callbacks };
    let slot = slot_of(task.ticket) as lua_Integer;
    // SAFETY: the caller restores the stack; setting a field that exists to nil does not raise.
    unsafe {
        let status = (*inst).protect.call(state, 0, |state| {
            lua::luaL_checkstack(state, 20, std::ptr::null());
            lua::lua_pushcfunction(state, traceback);
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, callbacks.into());
            lua::lua_rawgeti(state, -1, slot);
            lua::lua_pushnil(state);
            lua::lua_rawseti(state, -3, slot);
            lua::lua_remove(state, -2);
            2
        });
        if status != lua::LUA_OK {
            return;
        }
        (*inst).tickets.release(task.ticket);
        let handler = lua::lua_gettop(state) - 1;
        let mut count = push(inst, state, task);
        if matches!(task.outcome, Outcome::Raised) {
            // The completion gets `false, err`; the traceback is for reports.
            lua::lua_settop(state, handler + 3);
            count = 2;
        }
        if lua::lua_pcall(state, count, 0, handler) != lua::LUA_OK {
            // The handler made a table of error value and traceback.
            let status = (*inst).protect.call(state, 1, |state| {
                if lua::lua_istable(state, 2) == 0 {
                    return 1;
                }
                lua::lua_rawgeti(state, 2, 1);
                lua::lua_rawgeti(state, 2, 2);
                2
            });
            let reporter = (*inst).refs.report;
            // Failed too, it left one value: whatever that is, it is the error.
            let count = if status == lua::LUA_OK { lua::lua_gettop(state) - handler } else { 1 };
            report_values(inst, state, task, reporter, count);
        }
    }
}

/// The message handler of completions: error value and traceback in one table.
unsafe extern "C-unwind" fn traceback(state: *mut lua_State) -> c_int {
    // SAFETY: a message handler gets the error value.
    unsafe {
        lua::lua_createtable(state, 2, 0);
        lua::lua_pushvalue(state, 1);
        lua::lua_rawseti(state, -2, 1);
        lua::luaL_traceback(state, state, std::ptr::null(), 1);
        lua::lua_rawseti(state, -2, 2);
    }
    1
}

/// Reports the failure of a task to one of the prelude's reporters. Never raises.
///
/// # Safety
/// As for [`push`].
pub unsafe fn report(inst: *mut Inst, state: *mut lua_State, task: &Task, reporter: c_int) {
    // SAFETY: balanced.
    unsafe {
        let top = lua::lua_gettop(state);
        let count = push(inst, state, task);
        report_values(inst, state, task, reporter, count - 1);
        lua::lua_settop(state, top);
    }
}

/// Calls a reporter with the `count` values on top, an error value and perhaps its traceback, and with what
/// is known of the task.
unsafe fn report_values(inst: *mut Inst, state: *mut lua_State, task: &Task, reporter: c_int, count: c_int) {
    let place = label(task.code);
    let place = place.as_deref().unwrap_or("?");
    // SAFETY: the closure borrows only; the values are taken off by the call.
    unsafe {
        let status = (*inst).protect.call(state, count, |state| {
            lua::luaL_checkstack(state, 20, std::ptr::null());
            lua::lua_settop(state, 3);
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, reporter.into());
            lua::lua_insert(state, 2);
            lua::push_bytes(state, place.as_bytes());
            lua::lua_call(state, 3, 0);
            0
        });
        if status != lua::LUA_OK {
            // Not even the reporter could be run: the last resort must not need Lua.
            let why = String::from_utf8_lossy(lua::bytes_at(state, -1)).into_owned();
            eprintln!("threadpool: an error of the task {place} could not be reported: {why}");
            lua::lua_pop(state, 1);
        }
    }
}

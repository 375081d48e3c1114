//! Futures: a userdata that stands for a task until its outcome is asked for, and then keeps it.
//!
//! The outcome is kept as Lua values in the userdata's user value, a table `{mark, count, ok, ..., traceback}`,
//! so that every `await` returns the same objects. Until then the future is a ticket. It has no finalizer,
//! which would cost more than the future itself: a table with weak values tells which ones still live.

use std::ffi::{CStr, c_int, c_void};
use std::time::Instant;

use super::call::{self, Submit};
use super::{arguments, inst};
use crate::executor::Outcome;
use crate::lua::{self, lua_CFunction, lua_Integer, lua_State};
use crate::runtime::{Inst, Kind, Park, slot_of, sweep};

/// What the prelude calls.
pub const FUNCTIONS: &[(&CStr, lua_CFunction)] = &[
    (c"submit", submit),
    (c"await", await_),
    (c"future_state", future_state),
    (c"future_traceback", future_traceback),
];

/// What the userdata holds.
struct Future {
    ticket: u64,
}

/// `submit(pool, fn, ...)` -> future.
unsafe extern "C-unwind" fn submit(state: *mut lua_State) -> c_int {
    // SAFETY: the future is made and listed first, so that nothing can fail once the task is on its way.
    unsafe {
        let inst = inst(state);
        let count = lua::lua_gettop(state) - 1;
        call::check(state, count);
        sweep(inst, state);
        let future = lua::lua_newuserdata(state, size_of::<Future>()).cast::<Future>();
        future.write(Future { ticket: 0 });
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.future.into());
        lua::lua_setmetatable(state, -2);
        let ticket = call::ticket(inst, state, Kind::Future);
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.futures.into());
        lua::lua_pushvalue(state, -2);
        lua::lua_rawseti(state, -2, slot_of(ticket) as lua_Integer);
        lua::lua_pop(state, 1);
        lua::lua_insert(state, 2);
        // The pool at 1, the future at 2, the values above.
        call::send_or_raise(inst, state, count, Submit::plain(ticket));
        (*future).ticket = ticket;
        lua::lua_settop(state, 2);
    }
    1
}

/// The ticket of the future at index 1; raises for anything else.
unsafe fn receiver(inst: *mut Inst, state: *mut lua_State) -> u64 {
    // SAFETY: the metatable tells that it is one of `submit`'s.
    unsafe {
        let future = lua::lua_touserdata(state, 1).cast::<Future>();
        if !future.is_null() && lua::lua_getmetatable(state, 1) != 0 {
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.future.into());
            let same = lua::lua_rawequal(state, -1, -2) != 0;
            lua::lua_pop(state, 2);
            if same {
                return (*future).ticket;
            }
        }
        arguments::raise(state, c"self must be a future", 1)
    }
}

/// Tells the table of an outcome from other tables.
fn mark() -> *mut c_void {
    static MARK: u8 = 0;
    (&raw const MARK).cast_mut().cast()
}

/// Pushes the table of the outcome that the future keeps, if it has one; returns the number of values in
/// it, without the traceback.
unsafe fn push_kept(state: *mut lua_State) -> Option<c_int> {
    // SAFETY: leaves one value, or none.
    unsafe {
        lua::lua_getuservalue(state, 1);
        // Before anything was kept it is nil, or on 5.1 some environment: so the table has a mark.
        if lua::lua_istable(state, -1) != 0 {
            lua::lua_rawgeti(state, -1, 1);
            let kept = lua::lua_touserdata(state, -1) == mark();
            lua::lua_rawgeti(state, -2, 2);
            let count = lua::lua_tonumber(state, -1);
            lua::lua_pop(state, 2);
            if kept {
                return Some(count as c_int);
            }
        }
        lua::lua_pop(state, 1);
        None
    }
}

/// Pushes the values that the future keeps.
unsafe fn push_values(state: *mut lua_State) -> Option<c_int> {
    // SAFETY: room is made for the values.
    unsafe {
        let count = push_kept(state)?;
        let table = lua::lua_gettop(state);
        lua::luaL_checkstack(state, count + 4, std::ptr::null());
        for n in 0..count {
            lua::lua_rawgeti(state, table, lua_Integer::from(n + 3));
        }
        Some(count)
    }
}

/// Takes the outcome of an ended task, keeps it with the future, and returns how many values are pushed,
/// the traceback not among them.
unsafe fn keep(inst: *mut Inst, state: *mut lua_State, ticket: u64) -> c_int {
    // SAFETY: nothing is owned once the outcome is on the stack.
    unsafe {
        let raised = matches!((*inst).tickets.peek(ticket).map(|task| &task.outcome), Some(Outcome::Raised));
        let all = call::push_taken(inst, state, ticket);
        let count = if raised { all.min(2) } else { all };
        let first = lua::lua_gettop(state) - all + 1;
        lua::luaL_checkstack(state, 5, std::ptr::null());
        lua::lua_createtable(state, all + 2, 0);
        lua::lua_pushlightuserdata(state, mark());
        lua::lua_rawseti(state, -2, 1);
        lua::lua_pushinteger(state, lua_Integer::from(count));
        lua::lua_rawseti(state, -2, 2);
        for n in 0..all {
            lua::lua_pushvalue(state, first + n);
            lua::lua_rawseti(state, -2, lua_Integer::from(n + 3));
        }
        lua::lua_setuservalue(state, 1);
        lua::lua_settop(state, first + count - 1);
        count
    }
}

/// `await(future, timeout)` -> its outcome; nil and an error on timeout; 0 if the caller must yield and ask
/// again.
unsafe extern "C-unwind" fn await_(state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned here.
    unsafe {
        let inst = inst(state);
        let ticket = receiver(inst, state);
        let deadline = arguments::deadline(state, 2, c"timeout must be a number of seconds or nil");
        if let Some(count) = push_values(state) {
            return count;
        }
        (*inst).collect();
        if (*inst).tickets.peek(ticket).is_none() {
            let past = deadline.is_some_and(|at| at <= Instant::now());
            if !past && call::may_park(inst, state) {
                (*inst).park = Some(Park::Ticket(ticket, deadline));
                lua::lua_pushinteger(state, 0);
                return 1;
            }
            if past || !(*inst).block_until(deadline, |inst| inst.tickets.peek(ticket).is_some()) {
                return call::push_taken(inst, state, ticket);
            }
        }
        (*inst).settle();
        keep(inst, state, ticket)
    }
}

/// `future_state(future)` -> "pending" | "fulfilled" | "rejected".
unsafe extern "C-unwind" fn future_state(state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned here.
    unsafe {
        let inst = inst(state);
        let ticket = receiver(inst, state);
        let text = if push_kept(state).is_some() {
            lua::lua_rawgeti(state, -1, 3);
            if lua::lua_toboolean(state, -1) != 0 { c"fulfilled" } else { c"rejected" }
        } else {
            (*inst).collect();
            (*inst).settle();
            match (*inst).tickets.peek(ticket).map(|task| &task.outcome) {
                None => c"pending",
                Some(Outcome::Returned) => c"fulfilled",
                Some(_) => c"rejected",
            }
        };
        lua::lua_pushliteral(state, text);
    }
    1
}

/// `future_traceback(future)` -> the traceback of a task that raised, or nil.
unsafe extern "C-unwind" fn future_traceback(state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned here.
    unsafe {
        let inst = inst(state);
        let ticket = receiver(inst, state);
        lua::lua_settop(state, 1);
        (*inst).collect();
        (*inst).settle();
        if (*inst).tickets.peek(ticket).is_some() {
            keep(inst, state, ticket);
        }
        match push_kept(state) {
            Some(count) => {
                lua::lua_rawgeti(state, -1, 3);
                let fulfilled = lua::lua_toboolean(state, -1) != 0;
                lua::lua_rawgeti(state, -2, lua_Integer::from(count + 3));
                if fulfilled {
                    lua::lua_pushnil(state);
                }
            }
            None => lua::lua_pushnil(state),
        }
    }
    1
}

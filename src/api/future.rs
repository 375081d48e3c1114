//! Futures: a userdata that stands for a task until its outcome is asked for, and then keeps it.
//!
//! A single plain result is kept in the userdata itself, anything else as Lua values in its user value, a
//! table `{count, ok, ..., traceback}`: so every `await` returns the same objects. Until then the future is
//! a ticket. It has no finalizer, which would cost more than the future itself: a table with weak values
//! tells which ones still live.

use std::ffi::{CStr, c_int};
use std::time::Instant;

use super::call::{self, Submit};
use super::{arguments, inst};
use crate::executor::Outcome;
use crate::lua::{self, lua_CFunction, lua_Integer, lua_State};
use crate::runtime::{Inst, Kind, Park, push_error, slot_of, sweep};

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
    kept: Kept,
}

/// The outcome that a future keeps. The scalars are single results.
#[derive(Clone, Copy)]
enum Kept {
    Nothing,
    Nil,
    Boolean(bool),
    Integer(lua_Integer),
    Number(f64),
    /// In the user value.
    Table,
}

/// `submit(pool, fn, ...)` -> future.
unsafe extern "C-unwind" fn submit(state: *mut lua_State) -> c_int {
    // SAFETY: the future is made and listed first, so that nothing can fail once the task is on its way.
    unsafe {
        let inst = inst(state);
        let count = lua::lua_gettop(state) - 1;
        call::check(state, 1);
        sweep(inst, state);
        let future = lua::lua_newuserdata(state, size_of::<Future>()).cast::<Future>();
        future.write(Future { ticket: 0, kept: Kept::Nothing });
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

/// The future at index 1; raises for anything else.
unsafe fn receiver(inst: *mut Inst, state: *mut lua_State) -> *mut Future {
    // SAFETY: the metatable tells that it is one of `submit`'s.
    unsafe {
        let future = lua::lua_touserdata(state, 1).cast::<Future>();
        if !future.is_null() && lua::lua_getmetatable(state, 1) != 0 {
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.future.into());
            let same = lua::lua_rawequal(state, -1, -2) != 0;
            lua::lua_pop(state, 2);
            if same {
                return future;
            }
        }
        arguments::raise(state, c"self must be a future", 1)
    }
}

/// Pushes the outcome that the future keeps, without the traceback; `None` if it keeps none yet. May raise.
unsafe fn push_kept(future: *mut Future, state: *mut lua_State) -> Option<c_int> {
    // SAFETY: the future is at index 1. Room is made for what is in its table.
    unsafe {
        match (*future).kept {
            Kept::Nothing => return None,
            Kept::Table => {
                lua::lua_getuservalue(state, 1);
                let table = lua::lua_gettop(state);
                lua::lua_rawgeti(state, table, 1);
                let count = lua::lua_tonumber(state, -1) as c_int;
                lua::luaL_checkstack(state, count + 4, std::ptr::null());
                for n in 0..count {
                    lua::lua_rawgeti(state, table, lua_Integer::from(n + 2));
                }
                return Some(count);
            }
            _ => lua::lua_pushboolean(state, 1),
        }
        match (*future).kept {
            Kept::Boolean(value) => lua::lua_pushboolean(state, c_int::from(value)),
            Kept::Integer(value) => lua::lua_pushinteger(state, value),
            Kept::Number(value) => lua::lua_pushnumber(state, value),
            _ => lua::lua_pushnil(state),
        }
    }
    Some(2)
}

/// What the userdata itself can keep of an outcome of `count` values on top.
unsafe fn scalar(state: *mut lua_State, count: c_int) -> Option<Kept> {
    // SAFETY: reads the values.
    unsafe {
        if count != 2 || lua::lua_toboolean(state, -2) == 0 {
            return None;
        }
        match lua::lua_type(state, -1) {
            lua::LUA_TNIL => Some(Kept::Nil),
            lua::LUA_TBOOLEAN => Some(Kept::Boolean(lua::lua_toboolean(state, -1) != 0)),
            lua::LUA_TNUMBER if lua::is_integer(state, -1) => {
                Some(Kept::Integer(lua::lua_tointeger(state, -1)))
            }
            lua::LUA_TNUMBER => Some(Kept::Number(lua::lua_tonumber(state, -1))),
            _ => None,
        }
    }
}

/// Takes the outcome of an ended task, keeps it with the future, and leaves its values on the stack;
/// returns how many, the traceback not among them.
unsafe fn keep(inst: *mut Inst, future: *mut Future, state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned once the outcome is on the stack.
    unsafe {
        let ticket = (*future).ticket;
        lua::luaL_checkstack(state, 10, std::ptr::null());
        let raised = matches!((*inst).tickets.peek(ticket).map(|task| &task.outcome), Some(Outcome::Raised));
        let all = call::push_taken(inst, state, ticket);
        if let Some(kept) = scalar(state, all) {
            (*future).kept = kept;
            return all;
        }
        let count = if raised { all.min(2) } else { all };
        let first = lua::lua_gettop(state) - all + 1;
        lua::luaL_checkstack(state, 5, std::ptr::null());
        lua::lua_createtable(state, all + 1, 0);
        lua::lua_pushinteger(state, lua_Integer::from(count));
        lua::lua_rawseti(state, -2, 1);
        for n in 0..all {
            lua::lua_pushvalue(state, first + n);
            lua::lua_rawseti(state, -2, lua_Integer::from(n + 2));
        }
        lua::lua_setuservalue(state, 1);
        (*future).kept = Kept::Table;
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
        let future = receiver(inst, state);
        let deadline = arguments::deadline(state, 2, c"timeout must be a number of seconds or nil");
        if let Some(count) = push_kept(future, state) {
            return count;
        }
        let ticket = (*future).ticket;
        (*inst).collect();
        if (*inst).tickets.peek(ticket).is_none() {
            let past = deadline.is_some_and(|at| at <= Instant::now());
            if !past && call::may_park(inst, state) {
                (*inst).park = Some(Park::Ticket(ticket, deadline));
                lua::lua_pushinteger(state, 0);
                return 1;
            }
            if let Err(error) = (*inst).may_block() {
                lua::lua_pushnil(state);
                push_error(inst, state, &error);
                return 2;
            }
            if past || !(*inst).block_until(deadline, |inst| inst.tickets.peek(ticket).is_some()) {
                return call::push_taken(inst, state, ticket);
            }
        }
        (*inst).settle();
        keep(inst, future, state)
    }
}

/// `future_state(future)` -> "pending" | "fulfilled" | "rejected".
unsafe extern "C-unwind" fn future_state(state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned here.
    unsafe {
        let inst = inst(state);
        let future = receiver(inst, state);
        let text = match push_kept(future, state) {
            Some(count) if lua::lua_toboolean(state, -count) != 0 => c"fulfilled",
            Some(_) => c"rejected",
            None => {
                (*inst).collect();
                (*inst).settle();
                match (*inst).tickets.peek((*future).ticket).map(|task| &task.outcome) {
                    None => c"pending",
                    Some(Outcome::Returned) => c"fulfilled",
                    Some(_) => c"rejected",
                }
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
        let future = receiver(inst, state);
        lua::lua_settop(state, 1);
        (*inst).collect();
        (*inst).settle();
        if (*inst).tickets.peek((*future).ticket).is_some() {
            keep(inst, future, state);
        }
        match (*future).kept {
            Kept::Table => {
                lua::lua_getuservalue(state, 1);
                lua::lua_rawgeti(state, -1, 2);
                let fulfilled = lua::lua_toboolean(state, -1) != 0;
                // `false, err` and then the traceback, if there is one.
                lua::lua_rawgeti(state, -2, 4);
                if fulfilled {
                    lua::lua_pushnil(state);
                }
            }
            _ => lua::lua_pushnil(state),
        }
    }
    1
}

//! Arguments of the C functions, and how they raise.
//!
//! A message names the argument and what is allowed, and the place in the caller's code: the C function is
//! at level 0, the prelude's function that called it at 1, its caller at 2.

use std::ffi::{CStr, c_int};
use std::time::{Duration, Instant};

use crate::lua::{self, lua_State};
use crate::runtime::{Inst, push_error};

/// Raises a string, with the position of the caller of the prelude's function.
///
/// # Safety
/// Nothing on the frames between here and Lua needs dropping.
pub unsafe fn raise(state: *mut lua_State, text: &CStr, index: c_int) -> ! {
    // SAFETY: as the caller says.
    unsafe { raise_at(state, 2, text, index) }
}

/// The same for a C function that users call directly.
///
/// # Safety
/// As for [`raise`].
pub unsafe fn raise_here(state: *mut lua_State, text: &CStr, index: c_int) -> ! {
    // SAFETY: as the caller says.
    unsafe { raise_at(state, 1, text, index) }
}

/// The same with the position of the function at `level`.
///
/// # Safety
/// As for [`raise`].
pub unsafe fn raise_at(state: *mut lua_State, level: c_int, text: &CStr, index: c_int) -> ! {
    // SAFETY: `lua_error` does not return.
    unsafe {
        lua::luaL_where(state, level);
        lua::lua_pushliteral(state, text);
        lua::lua_pushliteral(state, c", not ");
        match lua::lua_type(state, index) {
            lua::LUA_TNONE => lua::lua_pushliteral(state, c"nothing"),
            lua::LUA_TNUMBER => lua::lua_pushvalue(state, index),
            kind => lua::lua_pushliteral(state, CStr::from_ptr(lua::lua_typename(state, kind))),
        }
        lua::lua_concat(state, 4);
        lua::lua_error(state)
    }
}

/// Raises the error object for `inst.failure`.
///
/// # Safety
/// As for [`raise`].
pub unsafe fn raise_failure(inst: *mut Inst, state: *mut lua_State) -> ! {
    // SAFETY: the error is cloned and dropped again before Lua jumps.
    unsafe {
        match (*inst).failure.take() {
            Some(error) => push_error(inst, state, &error),
            None => lua::lua_pushnil(state),
        }
        lua::lua_error(state)
    }
}

/// Raises `closed`: the state is closing, and its inst is gone.
///
/// # Safety
/// As for [`raise`].
pub unsafe fn raise_closed(state: *mut lua_State) -> ! {
    // SAFETY: `lua_error` does not return.
    unsafe {
        lua::lua_pushliteral(state, c"closed: this Lua state is closing");
        lua::lua_error(state)
    }
}

/// Requires a function.
///
/// # Safety
/// As for [`raise`].
pub unsafe fn function(state: *mut lua_State, index: c_int, level: c_int, text: &CStr) {
    // SAFETY: a plain read, or a raise.
    unsafe {
        if lua::lua_type(state, index) != lua::LUA_TFUNCTION {
            raise_at(state, level, text, index);
        }
    }
}

/// A time to wait in seconds, from now; `None` for nil: forever. Raises for anything but a number.
///
/// # Safety
/// As for [`raise`].
pub unsafe fn deadline(state: *mut lua_State, index: c_int, text: &CStr) -> Option<Instant> {
    // SAFETY: as the caller says.
    unsafe { deadline_at(state, 2, index, text) }
}

/// The same for a C function that users call directly.
///
/// # Safety
/// As for [`raise`].
pub unsafe fn deadline_here(state: *mut lua_State, index: c_int, text: &CStr) -> Option<Instant> {
    // SAFETY: as the caller says.
    unsafe { deadline_at(state, 1, index, text) }
}

unsafe fn deadline_at(state: *mut lua_State, level: c_int, index: c_int, text: &CStr) -> Option<Instant> {
    // SAFETY: plain reads, or a raise.
    unsafe {
        if lua::lua_type(state, index) <= lua::LUA_TNIL {
            return None;
        }
        if lua::lua_type(state, index) != lua::LUA_TNUMBER {
            raise_at(state, level, text, index);
        }
        // Beyond a century it is forever; NaN and the past are now.
        let seconds = lua::lua_tonumber(state, index).max(0.0);
        if seconds > 3e9 { None } else { Some(Instant::now() + Duration::from_secs_f64(seconds)) }
    }
}

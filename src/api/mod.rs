//! Layer 5: the bindings, what `require "threadpool"` returns.
//!
//! C functions submit, park and deliver; whatever can suspend its caller is a Lua function of the prelude
//! (`prelude.lua`), since a C function cannot yield on every Lua. Each C function has the userdata of its
//! state's [`Inst`] as its first upvalue.
//!
//! How a C function here is written: first it checks its arguments, and may raise; then it owns Rust
//! values, and calls only what does not raise; an error is put into `Inst::failure`, and raised from there
//! when nothing is owned any more.

mod arguments;
mod call;
mod future;
mod host;
mod pools;

use std::ffi::c_int;

use crate::executor::Worker;
use crate::lua::{self, lua_State};
use crate::runtime::{Inst, References, Slot, Workers};
use crate::sync::Arc;
use crate::transfer::Transfer;

const PRELUDE: &str = include_str!("prelude.lua");

/// The factory of every pool.
fn workers() -> Arc<dyn crate::executor::Factory> {
    Arc::new(Workers { open: open_worker })
}

/// Opens the module in a host's state.
pub fn open(lua: &mlua::Lua) -> mlua::Result<mlua::Value> {
    crate::executor::open_host(workers).map_err(mlua::Error::external)?;
    // SAFETY: runs protected; `open_state` owns nothing while it may raise.
    let opened = unsafe {
        lua.exec_raw((), |state| {
            open_state(state, None);
        })
    };
    // A state that could not be opened has no finalizer that would close it.
    opened.inspect_err(|_| drop(crate::executor::close_host(std::time::Duration::ZERO)))
}

/// Opens the module in a worker's state: as a loaded module, and with its globals.
unsafe fn open_worker(state: *mut lua_State, worker: Arc<Worker>) -> *mut Slot {
    // SAFETY: runs protected; leaves the stack as it was.
    unsafe {
        let slot = open_state(state, Some(worker));
        lua::lua_getfield(state, lua::LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
        lua::lua_pushvalue(state, -2);
        lua::lua_setfield(state, -2, c"threadpool".as_ptr());
        lua::lua_pop(state, 2);
        slot
    }
}

/// Pushes the module table. May raise.
unsafe fn open_state(state: *mut lua_State, worker: Option<Arc<Worker>>) -> *mut Slot {
    // SAFETY: one value is pushed on the whole.
    unsafe {
        lua::luaL_checkstack(state, 30, std::ptr::null());
        let is_worker = worker.is_some();
        let slot = lua::lua_newuserdata(state, size_of::<Slot>()).cast::<Slot>();
        slot.write(Slot(None));
        let slot_index = lua::lua_gettop(state);
        push_core(state, slot_index);
        let core = lua::lua_gettop(state);
        // The standard library is noted before the prelude replaces a part of it.
        let transfer = Transfer::new(state);
        let refs = run_prelude(state, core, is_worker);
        let mut inst = Inst::new(state, transfer, refs, worker);
        inst.transfer.register(state, b"threadpool\0error", refs.error);
        if is_worker {
            lua::lua_getglobal(state, c"print".as_ptr());
            let print = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
            inst.transfer.register(state, b"_G\0print", print);
        }
        // The slot is collected only with the state: its finalizer is the end of everything.
        (*slot).0 = Some(Box::new(inst));
        lua::lua_createtable(state, 0, 1);
        lua::lua_pushvalue(state, slot_index);
        lua::lua_pushcclosure(state, close, 1);
        lua::lua_setfield(state, -2, c"__gc".as_ptr());
        lua::lua_setmetatable(state, slot_index);
        lua::lua_pushvalue(state, slot_index);
        lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
        if let Some(inst) = (*slot).0.as_deref_mut() {
            call::push_gc_sentinel(inst, state);
        }
        lua::lua_getfield(state, core, c"module".as_ptr());
        lua::lua_replace(state, slot_index);
        lua::lua_settop(state, slot_index);
        slot
    }
}

/// Pushes the table of C functions that the prelude builds on.
unsafe fn push_core(state: *mut lua_State, slot: c_int) {
    // SAFETY: one table is pushed; `slot` is an absolute index.
    unsafe {
        lua::lua_createtable(state, 0, 32);
        for functions in [call::FUNCTIONS, future::FUNCTIONS, host::FUNCTIONS, pools::FUNCTIONS] {
            for (name, function) in functions {
                lua::set_function(state, name, *function, slot);
            }
        }
    }
}

/// Runs the prelude: it fills `core.module` and leaves in `core` what the runtime needs.
unsafe fn run_prelude(state: *mut lua_State, core: c_int, is_worker: bool) -> References {
    // SAFETY: balanced.
    unsafe {
        let name = c"=threadpool";
        let source = PRELUDE.as_bytes();
        if lua::luaL_loadbufferx(state, source.as_ptr().cast(), source.len(), name.as_ptr(), c"t".as_ptr())
            != 0
        {
            lua::lua_error(state);
        }
        lua::lua_pushvalue(state, core);
        lua::lua_pushboolean(state, c_int::from(is_worker));
        lua::lua_call(state, 2, 0);
        let reference = |name: &std::ffi::CStr| {
            lua::lua_getfield(state, core, name.as_ptr());
            lua::luaL_ref(state, lua::LUA_REGISTRYINDEX)
        };
        References {
            error: reference(c"error"),
            callbacks: reference(c"callbacks"),
            tls: reference(c"tls"),
            sendable_tls: reference(c"sendable_tls"),
            merge: reference(c"merge"),
            report: reference(c"report"),
            last_report: reference(c"last_report"),
            pool: reference(c"pool_metatable"),
            pools: reference(c"pool_objects"),
            future: reference(c"future_metatable"),
            futures: reference(c"futures"),
            gc: reference(c"gc_metatable"),
        }
    }
}

/// The inst of the state that calls a C function of this module; null when that state is closing. A
/// pointer, because user code that runs meanwhile uses the same inst: nobody borrows it for longer than a
/// statement that runs no Lua.
///
/// # Safety
/// Called in such a C function.
unsafe fn inst_of(state: *mut lua_State) -> *mut Inst {
    // SAFETY: the first upvalue is the slot; Lua frees its memory after every closure that has it.
    unsafe {
        let slot = &mut *lua::lua_touserdata(state, lua::lua_upvalueindex(1)).cast::<Slot>();
        let Some(inst) = slot.0.as_deref_mut() else { return std::ptr::null_mut() };
        if !inst.is_of_this_process() {
            inst.forget_parent();
            // This state is a host of the new process, whose first use of the module this is.
            let _ = crate::executor::open_host(workers);
        }
        inst
    }
}

/// The same, or else raises.
///
/// # Safety
/// As for [`inst_of`]; nothing on the frame needs dropping.
unsafe fn inst(state: *mut lua_State) -> *mut Inst {
    // SAFETY: as the caller says.
    unsafe {
        let inst = inst_of(state);
        if inst.is_null() || (*inst).closing {
            arguments::raise_closed(state);
        }
        inst
    }
}

/// The finalizer of a state's slot: the state closes.
unsafe extern "C-unwind" fn close(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it once, with the slot; the box is dropped where nothing raises.
    unsafe {
        let inst = inst_of(state);
        if inst.is_null() {
            return 0;
        }
        host::close(inst, state);
        let slot = lua::lua_touserdata(state, lua::lua_upvalueindex(1)).cast::<Slot>();
        drop((*slot).0.take());
    }
    0
}

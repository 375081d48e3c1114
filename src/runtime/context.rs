//! The search paths of Lua's `require`, which travel with a task when the worker has others.
//!
//! Read at every submit, so it must cost next to nothing: the strings are compared by address with those
//! that were sent last, which the registry keeps alive, and the same shared [`Context`] serves until they
//! change. On the other side its address tells a worker that it need not look.

use std::ffi::{c_int, c_void};

use super::Inst;
use crate::executor::{Context, Task};
use crate::lua::{self, lua_State};
use crate::sync::Arc;

/// What was sent last, and applied last.
pub struct ContextCache {
    /// Registry references: `package`, the two key strings, the two values that `sent` was made of.
    package: c_int,
    keys: [c_int; 2],
    values: [c_int; 2],
    addresses: [*const c_void; 2],
    sent: Option<Arc<Context>>,
    applied: Option<Arc<Context>>,
}

impl ContextCache {
    /// May raise.
    pub(super) unsafe fn new(state: *mut lua_State) -> ContextCache {
        // SAFETY: balanced.
        unsafe {
            let reference = |state| lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
            lua::lua_getfield(state, lua::LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
            lua::lua_pushliteral(state, c"package");
            lua::lua_rawget(state, -2);
            lua::lua_remove(state, -2);
            if lua::lua_istable(state, -1) == 0 {
                // A host without the package library: nothing travels, tasks keep their worker's paths.
                lua::lua_pop(state, 1);
                lua::lua_createtable(state, 0, 0);
            }
            let package = reference(state);
            let keys = [c"path", c"cpath"].map(|key| {
                lua::lua_pushliteral(state, key);
                reference(state)
            });
            let values = [(); 2].map(|()| {
                lua::lua_pushboolean(state, 0);
                reference(state)
            });
            ContextCache {
                package,
                keys,
                values,
                addresses: [std::ptr::null(); 2],
                sent: None,
                applied: None,
            }
        }
    }
}

/// Notes the search paths of the submitting state in a task. Never raises.
///
/// # Safety
/// `state` is the running thread of the inst's state, with three stack slots free.
pub unsafe fn attach(inst: &mut Inst, state: *mut lua_State, task: &mut Task) {
    // SAFETY: balanced; `rawseti` assigns to fields of the registry that exist.
    unsafe {
        let cache = &mut inst.context;
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, cache.package.into());
        let mut changed = cache.sent.is_none();
        for n in 0..2 {
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, cache.keys[n].into());
            lua::lua_rawget(state, -2);
            let address = lua::bytes_at(state, -1).as_ptr().cast();
            if address != cache.addresses[n] {
                cache.addresses[n] = address;
                changed = true;
                lua::lua_rawseti(state, lua::LUA_REGISTRYINDEX, cache.values[n].into());
            } else {
                lua::lua_pop(state, 1);
            }
        }
        lua::lua_pop(state, 1);
        if changed {
            let [path, cpath] = cache.values.map(|value| {
                lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, value.into());
                let is_path = lua::lua_type(state, -1) == lua::LUA_TSTRING;
                let bytes = is_path.then(|| lua::bytes_at(state, -1).to_vec().into_boxed_slice());
                lua::lua_pop(state, 1);
                bytes
            });
            // A host that has no search paths has none to send: its tasks find those of the worker.
            cache.sent = path.zip(cpath).map(|(path, cpath)| Arc::new(Context { path, cpath }));
        }
        if cache.sent.is_none() {
            task.context = None;
            return;
        }
        let same = |of: &Arc<Context>| cache.sent.as_ref().is_some_and(|sent| Arc::ptr_eq(of, sent));
        if !task.context.as_ref().is_some_and(same) {
            task.context = cache.sent.clone();
        }
    }
}

/// Takes over a task's search paths into a worker's state, if they are not those already.
///
/// # Safety
/// `state` is the main thread of the inst's state, not running, with ten stack slots free.
pub unsafe fn apply(inst: &mut Inst, state: *mut lua_State, task: &Task) {
    let Some(context) = &task.context else { return };
    if inst.context.applied.as_ref().is_some_and(|applied| Arc::ptr_eq(applied, context)) {
        return;
    }
    let (package, context) = (inst.context.package, context.clone());
    let values: [(&std::ffi::CStr, &[u8]); 2] = [(c"path", &context.path), (c"cpath", &context.cpath)];
    // SAFETY: the closure borrows only; a memory error leaves the paths as they were, for the task to meet
    // the same lack of memory.
    let status = unsafe {
        inst.protect.call(state, 0, |state| {
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, package.into());
            for (key, value) in values {
                lua::lua_pushliteral(state, key);
                lua::push_bytes(state, value);
                lua::lua_rawset(state, -3);
            }
            0
        })
    };
    if status == lua::LUA_OK {
        inst.context.applied = Some(context);
    } else {
        // SAFETY: the error value is on top.
        unsafe { lua::lua_pop(state, 1) };
    }
}

//! Pools: finding them, making them, asking them.

use std::ffi::{CStr, c_int};

use super::{arguments, inst, inst_of, workers};
use crate::error::{Code, Error, Result};
use crate::executor::{self, Options, Pool};
use crate::lua::{self, lua_CFunction, lua_Integer, lua_State};
use crate::runtime::{Inst, push_error};
use crate::sync::Arc;

/// What the prelude calls.
pub const FUNCTIONS: &[(&CStr, lua_CFunction)] = &[
    (c"fixed", fixed),
    (c"pool", pool),
    (c"pools", pools),
    (c"pool_index", pool_index),
    (c"pool_state", pool_state),
    (c"shutdown", shutdown),
    (c"wait_for_termination", wait_for_termination),
    (c"stats", stats),
    (c"retire", retire),
    (c"processor_count", processor_count),
];

/// The most workers that a pool may be made with: beyond it is a mistake, not a wish.
const MOST_WORKERS: f64 = 10_000.0;

/// What a pool's userdata holds; empty once collected.
struct Object(Option<Arc<Pool>>);

/// Raises unless the value at `index` can name a pool.
///
/// # Safety
/// As for [`arguments::raise`].
pub unsafe fn check(state: *mut lua_State, index: c_int, level: c_int) {
    // SAFETY: a plain read, or a raise.
    unsafe {
        if !matches!(lua::lua_type(state, index), lua::LUA_TSTRING | lua::LUA_TNUMBER | lua::LUA_TUSERDATA) {
            arguments::raise_at(state, level, c"pool must be a pool, a name or an id", index);
        }
    }
}

/// The pool that the value at `index` names. Never raises.
///
/// # Safety
/// The inst is alive.
pub unsafe fn find(inst: *mut Inst, state: *mut lua_State, index: c_int) -> Result<Arc<Pool>> {
    // SAFETY: reads values of the type that was asked for.
    unsafe {
        match lua::lua_type(state, index) {
            lua::LUA_TUSERDATA => match object(inst, state, index) {
                Some(Object(Some(pool))) => Ok(pool.clone()),
                _ => Err(Error::new(Code::NoPool, "this userdata is not a pool")),
            },
            lua::LUA_TNUMBER => {
                let id = lua::lua_tonumber(state, index);
                if id >= 0.0 && id.fract() == 0.0 && id < f64::from(u32::MAX) {
                    executor::by_id(id as u32, workers)
                } else {
                    Err(Error::new(Code::NoPool, format!("no pool has the id {id}")))
                }
            }
            _ => by_name(inst, lua::bytes_at(state, index)),
        }
    }
}

/// The pool of that name, remembered for the next time.
unsafe fn by_name(inst: *mut Inst, name: &[u8]) -> Result<Arc<Pool>> {
    // SAFETY: the inst is alive; no Lua runs.
    let known = unsafe { &mut (*inst).pools };
    if let Some((_, pool)) = known.iter().find(|(known, _)| known == name)
        && pool.is_of_this_process()
        && pool.is_running()
    {
        return Ok(pool.clone());
    }
    let pool = executor::by_name(&String::from_utf8_lossy(name), workers)?;
    known.retain(|(known, pool)| known != name && pool.is_of_this_process());
    known.truncate(15);
    known.push((name.to_vec(), pool.clone()));
    Ok(pool)
}

unsafe fn object<'a>(inst: *mut Inst, state: *mut lua_State, index: c_int) -> Option<&'a mut Object> {
    // SAFETY: the metatable tells that it is one of `push_pool`'s.
    unsafe {
        let object = lua::lua_touserdata(state, index);
        if object.is_null() || lua::lua_getmetatable(state, index) == 0 {
            return None;
        }
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.pool.into());
        let same = lua::lua_rawequal(state, -1, -2) != 0;
        lua::lua_pop(state, 2);
        same.then(|| renewed(&mut *object.cast::<Object>()))
    }
}

/// In the child of a fork a pool object stands for a pool of the child's own; the parent's is forgotten.
fn renewed(object: &mut Object) -> &mut Object {
    if let Some(pool) = &object.0
        && !pool.is_of_this_process()
        && let Ok(again) = executor::reborn(pool, workers)
    {
        again.add_handle();
        std::mem::forget(object.0.replace(again));
    }
    object
}

/// The pool at index 1; raises for anything else.
unsafe fn receiver<'a>(inst: *mut Inst, state: *mut lua_State) -> &'a Arc<Pool> {
    // SAFETY: the reference is good while the userdata is on the stack.
    unsafe {
        match object(inst, state, 1) {
            Some(Object(Some(pool))) => pool,
            _ => arguments::raise(state, c"self must be a pool", 1),
        }
    }
}

/// Pushes the pool that `find` puts into a fresh userdata, or else `nil` and the error: the same object for
/// the same pool, while it lives.
unsafe fn push_pool(
    inst: *mut Inst,
    state: *mut lua_State,
    find: impl FnOnce() -> Result<Arc<Pool>>,
) -> c_int {
    // SAFETY: the pool is in the userdata before anything can raise.
    unsafe {
        let object = lua::lua_newuserdata(state, size_of::<Object>()).cast::<Object>();
        object.write(Object(None));
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.pool.into());
        lua::lua_setmetatable(state, -2);
        match find() {
            Err(error) => {
                lua::lua_pushnil(state);
                push_error(inst, state, &error);
                return 2;
            }
            Ok(pool) => {
                pool.add_handle();
                (*object).0 = Some(pool);
            }
        }
        let id = (*object).0.as_ref().map_or(0, |pool| pool.id);
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.pools.into());
        lua::lua_rawgeti(state, -1, lua_Integer::from(id as i32));
        if let Some(Object(Some(known))) = self::object(inst, state, lua::lua_gettop(state))
            && (*object).0.as_ref().is_some_and(|pool| Arc::ptr_eq(pool, known))
        {
            known.drop_handle();
            (*object).0 = None;
            return 1;
        }
        lua::lua_pop(state, 1);
        lua::lua_pushvalue(state, -2);
        lua::lua_rawseti(state, -2, lua_Integer::from(id as i32));
        lua::lua_pop(state, 1);
    }
    1
}

/// `fixed(n, name)` -> pool. Raises for a wrong size, a wrong name, a name that is taken.
unsafe extern "C-unwind" fn fixed(state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned where Lua may raise.
    unsafe {
        let inst = inst(state);
        let n = lua::lua_tonumber(state, 1);
        if lua::lua_type(state, 1) != lua::LUA_TNUMBER
            || !(1.0..=MOST_WORKERS).contains(&n)
            || n.fract() != 0.0
        {
            arguments::raise(state, c"fixed: n must be a whole number from 1 to 10000", 1);
        }
        if lua::lua_type(state, 2) > lua::LUA_TNIL && lua::lua_type(state, 2) != lua::LUA_TSTRING {
            arguments::raise(state, c"fixed: option name must be a string", 2);
        }
        if lua::bytes_at(state, 2).contains(&0) {
            arguments::raise(state, c"fixed: option name must be a string without NUL", 2);
        }
        let count = push_pool(inst, state, || {
            let name = String::from_utf8_lossy(lua::bytes_at(state, 2)).into_owned();
            executor::create(
                Options { name, min: n as usize, max: n as usize, ..Options::default() },
                workers,
            )
        });
        if count == 2 {
            lua::lua_error(state);
        }
    }
    1
}

/// `pool(name_or_id)` -> pool | nil, error.
unsafe extern "C-unwind" fn pool(state: *mut lua_State) -> c_int {
    // SAFETY: as in `fixed`.
    unsafe {
        let inst = inst(state);
        check(state, 1, 2);
        push_pool(inst, state, || find(inst, state, 1))
    }
}

/// `pools()` -> a list of all pools.
unsafe extern "C-unwind" fn pools(state: *mut lua_State) -> c_int {
    // SAFETY: the list of ids is copied to the stack of this frame before anything raises.
    unsafe {
        let inst = inst(state);
        lua::lua_settop(state, 0);
        let mut ids = [0u32; 256];
        let all = executor::list();
        let count = all.len().min(ids.len());
        for (id, pool) in ids.iter_mut().zip(&all) {
            *id = pool.id;
        }
        drop(all);
        lua::lua_createtable(state, count as c_int, 0);
        let mut length = 0;
        for id in &ids[..count] {
            if push_pool(inst, state, || executor::by_id(*id, workers)) == 1 {
                length += 1;
                lua::lua_rawseti(state, 1, length);
            }
            lua::lua_settop(state, 1);
        }
    }
    1
}

/// `__index(pool, key)`: a method, or `name` or `id`. The methods are the second upvalue.
unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: the name is borrowed from the pool, which the userdata keeps.
    unsafe {
        lua::lua_pushvalue(state, 2);
        lua::lua_rawget(state, lua::lua_upvalueindex(2));
        if lua::lua_isnil(state, -1) == 0 {
            return 1;
        }
        let pool = receiver(inst(state), state);
        match lua::bytes_at(state, 2) {
            b"name" => lua::push_bytes(state, pool.options.name.as_bytes()),
            b"id" => lua::lua_pushinteger(state, lua_Integer::from(pool.id as i32)),
            _ => lua::lua_pushnil(state),
        }
    }
    1
}

/// `pool_index(methods)` -> the `__index` of pool objects.
unsafe extern "C-unwind" fn pool_index(state: *mut lua_State) -> c_int {
    // SAFETY: one closure with the slot and the methods.
    unsafe {
        lua::lua_settop(state, 1);
        lua::lua_pushvalue(state, lua::lua_upvalueindex(1));
        lua::lua_insert(state, 1);
        lua::lua_pushcclosure(state, index, 2);
    }
    1
}

/// `pool_state(pool)` -> "running" | "shutting down" | "shut down".
unsafe extern "C-unwind" fn pool_state(state: *mut lua_State) -> c_int {
    // SAFETY: as in `pool_field`.
    unsafe {
        let pool = receiver(inst(state), state);
        let text = if pool.is_running() {
            c"running"
        } else if pool.is_terminated() {
            c"shut down"
        } else {
            c"shutting down"
        };
        lua::lua_pushliteral(state, text);
    }
    1
}

/// `shutdown(pool)` -> true.
unsafe extern "C-unwind" fn shutdown(state: *mut lua_State) -> c_int {
    // SAFETY: as in `pool_field`.
    unsafe {
        receiver(inst(state), state).shutdown();
        lua::lua_pushboolean(state, 1);
    }
    1
}

/// `wait_for_termination(pool, timeout)` -> whether it has ended.
unsafe extern "C-unwind" fn wait_for_termination(state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned while it waits but a guard, which goes before Lua can raise.
    unsafe {
        let inst = inst(state);
        let pool = receiver(inst, state);
        let deadline = arguments::deadline(state, 2, c"timeout must be a number of seconds or nil");
        let own = (*inst)
            .worker
            .as_ref()
            .and_then(|worker| worker.pool())
            .is_some_and(|own| Arc::ptr_eq(&own, pool));
        if own && deadline.is_none() && !pool.is_terminated() {
            let text = format!("a task of pool '{}' would wait for its own end", pool.options.name);
            (*inst).failure = Some(Error::new(Code::Deadlock, text));
            arguments::raise_failure(inst, state);
        }
        let blocking = (*inst).worker.as_ref().and_then(|worker| worker.pool()).map(|pool| pool.block());
        let ended = pool.wait_for_termination(deadline);
        drop(blocking);
        lua::lua_pushboolean(state, c_int::from(ended));
    }
    1
}

/// `stats(pool)` -> a table of numbers, as they are now.
unsafe extern "C-unwind" fn stats(state: *mut lua_State) -> c_int {
    // SAFETY: as in `pool_field`.
    unsafe {
        let pool = receiver(inst(state), state);
        let numbers: [(&CStr, usize); 5] = [
            (c"min_length", pool.options.min),
            (c"max_length", pool.options.max),
            (c"length", pool.length()),
            (c"queue_length", pool.queue_length()),
            (c"completed_task_count", pool.ended() as usize),
        ];
        lua::lua_createtable(state, 0, numbers.len() as c_int);
        for (name, value) in numbers {
            lua::lua_pushinteger(state, value as lua_Integer);
            lua::lua_setfield(state, -2, name.as_ptr());
        }
    }
    1
}

/// The finalizer of pool objects.
unsafe extern "C-unwind" fn retire(state: *mut lua_State) -> c_int {
    // SAFETY: raises nothing; the pool is taken out of the userdata, so that nothing is dropped twice.
    unsafe {
        let inst = inst_of(state);
        if !inst.is_null()
            && let Some(object) = object(inst, state, 1)
            && let Some(pool) = object.0.take()
        {
            executor::retire(&pool);
        }
    }
    0
}

/// `processor_count()` -> processors that this process may use.
unsafe extern "C-unwind" fn processor_count(state: *mut lua_State) -> c_int {
    // SAFETY: one value.
    unsafe { lua::lua_pushinteger(state, crate::sys::processor_count() as lua_Integer) };
    1
}

//! Tasks: submitting them, waiting for them, taking their outcomes.

use std::ffi::{CStr, c_int};
use std::time::Instant;

use super::{arguments, inst, inst_of, pools};
use crate::codec::{Handle, Packet};
use crate::error::{Code, Error, Result};
use crate::lua::{self, lua_CFunction, lua_Integer, lua_State};
use crate::runtime::{Inst, Kind, Park, context, push_error, push_outcome, slot_of};
use crate::transfer::{Roots, Transfer};

/// What the prelude calls.
pub const FUNCTIONS: &[(&CStr, lua_CFunction)] = &[
    (c"run", run),
    (c"post", post),
    (c"detach", detach),
    (c"complete", complete),
    (c"take", take),
    (c"sleep", sleep),
    (c"sendable", sendable),
    (c"running", running),
    (c"tls_used", tls_used),
    (c"gc_tick", gc_tick),
];

/// What a submit needs to know.
pub struct Submit {
    /// From [`ticket`]; void again if the submit fails.
    pub ticket: u64,
    /// What the values are.
    pub roots: Roots,
    /// Whether the second value is a completion for the worker.
    pub completes: bool,
    /// Whether the caller's `_TLS` goes along.
    pub with_tls: bool,
}

impl Submit {
    /// A function and its arguments, and nothing else.
    pub fn plain(ticket: u64) -> Submit {
        Submit { ticket, roots: Roots::Task, completes: false, with_tls: false }
    }
}

/// A new ticket; raises when too many are out.
///
/// # Safety
/// Nothing on the frame needs dropping.
pub unsafe fn ticket(inst: *mut Inst, state: *mut lua_State, kind: Kind) -> u64 {
    // SAFETY: the error is in the inst when Lua raises it.
    unsafe {
        match (*inst).tickets.issue(kind) {
            Some(ticket) => ticket,
            None => {
                (*inst).failure = Some(Error::new(Code::Memory, "16 million tasks are outstanding"));
                arguments::raise_failure(inst, state)
            }
        }
    }
}

/// Submits the `count` values on top, a function and what belongs to it, to the pool at index 1. The
/// values are taken off; the ticket is void if this fails. Never raises.
unsafe fn send(inst: *mut Inst, state: *mut lua_State, count: c_int, submit: Submit) -> Result<()> {
    let ticket = submit.ticket;
    // SAFETY: as the caller says.
    unsafe { send_values(inst, state, count, submit).inspect_err(|_| (*inst).tickets.release(ticket)) }
}

unsafe fn send_values(inst: *mut Inst, state: *mut lua_State, count: c_int, submit: Submit) -> Result<()> {
    // SAFETY: the inst is borrowed for single statements; what is owned is dropped or handed on before any
    // call that raises.
    unsafe {
        let pool = pools::find(inst, state, 1).inspect_err(|_| lua::lua_pop(state, count))?;
        let carries_tls = submit.with_tls && (*inst).tls_used && push_tls(inst, state);
        let count = count + c_int::from(carries_tls);
        let mut task = (*inst).new_task(submit.ticket);
        task.completes = submit.completes;
        task.carries_tls = carries_tls;
        context::attach(&mut *inst, state, &mut task);
        let transfer = &raw mut (*inst).transfer;
        if let Err(error) = Transfer::encode(transfer, state, &mut task.packet, count, submit.roots) {
            (*inst).recycle(task);
            return Err(error);
        }
        task.code = match task.packet.handles.first() {
            Some(Handle::Code(code)) => code.id,
            _ => 0,
        };
        if let Err((task, error)) = pool.submit(task) {
            (*inst).recycle(task);
            return Err(error);
        }
        (*inst).pending += 1;
    }
    Ok(())
}

/// Pushes a copy of the running coroutine's `_TLS` without what cannot travel; `false` if it has none.
unsafe fn push_tls(inst: *mut Inst, state: *mut lua_State) -> bool {
    // SAFETY: one value at most is left.
    unsafe {
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.sendable_tls.into());
        lua::lua_pushthread(state);
        if lua::lua_pcall(state, 1, 1, 0) == lua::LUA_OK && lua::lua_istable(state, -1) != 0 {
            return true;
        }
        lua::lua_pop(state, 1);
        false
    }
}

/// Whether the caller is a task that can give its worker back while it waits.
///
/// # Safety
/// The inst is that of `state`.
pub unsafe fn may_park(inst: *mut Inst, state: *mut lua_State) -> bool {
    // SAFETY: plain reads.
    unsafe { (*inst).current == state && lua::is_yieldable(state, (*inst).transfer.flavor()) }
}

/// Checks the pool at 1 and the function at 2, and makes some room. A message has the position of the function at `level`: 1 is the caller of this C function, 2 its caller.
///
/// # Safety
/// As for [`arguments::raise`].
pub unsafe fn check(state: *mut lua_State, level: c_int) {
    // SAFETY: raises, or reads.
    unsafe {
        pools::check(state, 1, level);
        arguments::function(state, 2, level, c"fn must be a function");
        lua::luaL_checkstack(state, 20, c"too many arguments".as_ptr());
    }
}

/// `run(pool, fn, ...)`: its outcome, or a ticket for which the caller must yield first. A pool that does
/// not exist or refuses is an outcome, too.
unsafe extern "C-unwind" fn run(state: *mut lua_State) -> c_int {
    // SAFETY: nothing is owned where Lua may raise.
    unsafe {
        let inst = inst(state);
        let count = lua::lua_gettop(state) - 1;
        check(state, 2);
        let parks = may_park(inst, state);
        if !parks && let Err(error) = (*inst).may_block() {
            lua::lua_pushboolean(state, 0);
            push_error(inst, state, &error);
            return 2;
        }
        let ticket = ticket(inst, state, Kind::Caller);
        let submit = Submit { ticket, roots: Roots::Task, completes: false, with_tls: true };
        if let Err(error) = send(inst, state, count, submit) {
            if matches!(error.code, Code::Transfer | Code::Memory) {
                (*inst).failure = Some(error);
                arguments::raise_failure(inst, state);
            }
            lua::lua_pushboolean(state, 0);
            push_error(inst, state, &error);
            return 2;
        }
        if parks {
            (*inst).park = Some(Park::Ticket(ticket, None));
            push_ticket(state, ticket);
            return 1;
        }
        (*inst).block_until(None, |inst| inst.tickets.peek(ticket).is_some());
        push_taken(inst, state, ticket)
    }
}

/// `post(pool, fn, ...)` -> true. Raises what `run` returns as an outcome.
unsafe extern "C-unwind" fn post(state: *mut lua_State) -> c_int {
    // SAFETY: as in `run`.
    unsafe { post_at(state, 1) }
}

/// The same for the prelude, whose caller is one level up.
unsafe extern "C-unwind" fn detach(state: *mut lua_State) -> c_int {
    // SAFETY: as in `run`.
    unsafe { post_at(state, 2) }
}

unsafe fn post_at(state: *mut lua_State, level: c_int) -> c_int {
    // SAFETY: as in `run`.
    unsafe {
        let inst = inst(state);
        let count = lua::lua_gettop(state) - 1;
        check(state, level);
        let ticket = ticket(inst, state, Kind::Detached);
        send_or_raise(inst, state, count, Submit::plain(ticket));
        lua::lua_pushboolean(state, 1);
    }
    1
}

/// `complete(pool, fn, completion, here)`: `here` runs the completion in this state, when it polls.
unsafe extern "C-unwind" fn complete(state: *mut lua_State) -> c_int {
    // SAFETY: as in `run`.
    unsafe {
        let inst = inst(state);
        check(state, 2);
        arguments::function(state, 3, 2, c"completion must be a function, true, false or nil");
        let here = lua::lua_toboolean(state, 4) != 0;
        if !here {
            lua::lua_settop(state, 3);
            let ticket = ticket(inst, state, Kind::Detached);
            let submit = Submit { ticket, roots: Roots::Completion, completes: true, with_tls: false };
            send_or_raise(inst, state, 2, submit);
            return 0;
        }
        let ticket = ticket(inst, state, Kind::Callback);
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.callbacks.into());
        lua::lua_pushvalue(state, 3);
        lua::lua_rawseti(state, -2, slot_of(ticket) as lua_Integer);
        lua::lua_pushvalue(state, 2);
        if let Err(error) = send(inst, state, 1, Submit::plain(ticket)) {
            (*inst).failure = Some(error);
            lua::lua_pushnil(state);
            lua::lua_rawseti(state, -2, slot_of(ticket) as lua_Integer);
            arguments::raise_failure(inst, state);
        }
    }
    0
}

/// Like [`send`], but raises the error.
///
/// # Safety
/// As for [`arguments::raise_failure`].
pub unsafe fn send_or_raise(inst: *mut Inst, state: *mut lua_State, count: c_int, submit: Submit) {
    // SAFETY: the error is in the inst when Lua raises it.
    unsafe {
        if let Err(error) = send(inst, state, count, submit) {
            (*inst).failure = Some(error);
            arguments::raise_failure(inst, state);
        }
    }
}

unsafe fn push_ticket(state: *mut lua_State, ticket: u64) {
    // SAFETY: one slot. A double holds every ticket that a process can live to give out.
    unsafe { lua::lua_pushnumber(state, ticket as f64) };
}

/// `take(ticket)` -> the outcome and, after an error, its traceback.
unsafe extern "C-unwind" fn take(state: *mut lua_State) -> c_int {
    // SAFETY: as in `run`.
    unsafe {
        let inst = inst(state);
        let ticket = lua::lua_tonumber(state, 1) as u64;
        push_taken(inst, state, ticket)
    }
}

/// Takes the task of this ticket and pushes its outcome and, after an error, its traceback. If it has not
/// come: `nil` and a timeout error. Never raises.
///
/// # Safety
/// As for [`push_outcome`].
pub unsafe fn push_taken(inst: *mut Inst, state: *mut lua_State, ticket: u64) -> c_int {
    // SAFETY: the task is owned while nothing raises.
    unsafe {
        match (*inst).tickets.take(ticket) {
            Some(task) => {
                let count = push_outcome(inst, state, &task);
                (*inst).recycle(task);
                count
            }
            None => {
                lua::lua_pushnil(state);
                push_error(inst, state, &Error::new(Code::Timeout, "the task has not ended in time"));
                2
            }
        }
    }
}

/// `sleep(seconds)` -> true if the caller must yield instead.
unsafe extern "C-unwind" fn sleep(state: *mut lua_State) -> c_int {
    // SAFETY: as in `run`.
    unsafe {
        let inst = inst(state);
        if lua::lua_type(state, 1) != lua::LUA_TNUMBER {
            arguments::raise(state, c"seconds must be a number", 1);
        }
        let deadline = arguments::deadline(state, 1, c"seconds must be a number");
        if may_park(inst, state) {
            (*inst).park = Some(match deadline {
                Some(at) => Park::Until(at),
                // Forever: no task has the ticket 0.
                None => Park::Ticket(0, None),
            });
            lua::lua_pushboolean(state, 1);
            return 1;
        }
        let pool = (*inst).worker.as_ref().and_then(|worker| worker.pool());
        let blocking = pool.map(|pool| pool.block());
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            std::thread::sleep(left.unwrap_or(std::time::Duration::from_secs(3600)));
            if left.is_some() {
                break;
            }
        }
        drop(blocking);
    }
    0
}

/// `sendable(value)` -> whether it can travel.
unsafe extern "C-unwind" fn sendable(state: *mut lua_State) -> c_int {
    // SAFETY: the packet is dropped before anything raises.
    unsafe {
        let inst = inst(state);
        lua::lua_settop(state, 1);
        let mut packet = Packet::default();
        let encoded = Transfer::encode(&raw mut (*inst).transfer, state, &mut packet, 1, Roots::Task);
        let sendable = encoded.is_ok();
        drop((packet, encoded));
        lua::lua_pushboolean(state, c_int::from(sendable));
    }
    1
}

/// `running()` -> the coroutine that runs; the main one, too, on every Lua.
unsafe extern "C-unwind" fn running(state: *mut lua_State) -> c_int {
    // SAFETY: one value.
    unsafe { lua::lua_pushthread(state) };
    1
}

/// `tls_used()`: a `_TLS` table is about to be made.
unsafe extern "C-unwind" fn tls_used(state: *mut lua_State) -> c_int {
    // SAFETY: a plain write.
    unsafe { (*inst(state)).tls_used = true };
    0
}

/// The finalizer of a userdata that nobody holds: Lua has been through a cycle of collection. Gives back
/// memory of ours, too, and waits for the next one.
unsafe extern "C-unwind" fn gc_tick(state: *mut lua_State) -> c_int {
    // SAFETY: raises only if there is no memory for the next userdata: then this was the last tick.
    unsafe {
        let inst = inst_of(state);
        if !inst.is_null() {
            (*inst).lua_has_collected();
            push_gc_sentinel(inst, state);
        }
    }
    0
}

/// Pushes the userdata whose finalizer is [`gc_tick`]. May raise.
///
/// # Safety
/// Three stack slots are free.
pub unsafe fn push_gc_sentinel(inst: *mut Inst, state: *mut lua_State) {
    // SAFETY: one value.
    unsafe {
        lua::lua_newuserdata(state, 1);
        lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*inst).refs.gc.into());
        lua::lua_setmetatable(state, -2);
    }
}

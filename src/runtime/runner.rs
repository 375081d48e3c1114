//! The runner of a worker: owns its Lua state and runs tasks in it as coroutines.
//!
//! `lua_resume` is the protected call of a task; nothing else lies between the worker's loop and the
//! task's function. A task that waits yields after it has said for what (`Park`), and is kept in `parked`
//! until that has come. It never moves to another state.
//!
//! Everything else that may raise, on the state's main thread, runs in protected calls.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::ffi::c_int;
use std::ptr;
use std::time::Instant;

use super::inst::{Inst, Park, Slot};
use super::tickets::Kind;
use super::{context, outcome};
use crate::error::{Code, Error, Result};
use crate::executor::{self, Factory, Outcome, Task, Worker};
use crate::lua::{self, lua_Integer, lua_State};
use crate::sync::Arc;
use crate::transfer::{Roots, Transfer};

/// Prepares a fresh state: opens the module in it and returns the slot of its inst. May raise.
pub type Open = unsafe fn(*mut lua_State, Arc<Worker>) -> *mut Slot;

/// The factory of the process: each worker gets a state of its own.
pub struct Workers {
    /// From the bindings.
    pub open: Open,
}

impl Factory for Workers {
    fn start(&self, worker: Arc<Worker>) -> Result<Box<dyn executor::Runner>> {
        // SAFETY: the state is made, used and closed on this thread. All libraries and C modules are
        // wanted: a worker is trusted as much as the program that submits to it.
        let lua = unsafe { mlua::Lua::unsafe_new_with(mlua::StdLib::NONE, mlua::LuaOptions::default()) };
        let (mut slot, mut main) = (ptr::null_mut(), ptr::null_mut());
        let open = self.open;
        let theirs = worker.clone();
        // SAFETY: runs protected; the worker's count leaks if it raises, with the state that has no memory.
        let opened = unsafe {
            lua.exec_raw::<()>((), |state| {
                lua::luaL_openlibs(state);
                slot = open(state, theirs);
                main = state;
            })
        };
        if let Err(error) = opened {
            return Err(Error::new(Code::Rejected, format!("a worker's state could not be made: {error}")));
        }
        // SAFETY: the main thread of a state that does not run.
        unsafe { lua::lua_checkstack(main, 200) };
        Ok(Box::new(Runner {
            slot,
            main,
            worker,
            parked: HashMap::new(),
            awaited: BTreeSet::new(),
            timers: BinaryHeap::new(),
            next_id: 0,
            spare: None,
            lua: Some(lua),
        }))
    }
}

/// See the head of this file.
struct Runner {
    slot: *mut Slot,
    main: *mut lua_State,
    worker: Arc<Worker>,
    /// Tasks that wait, by a number that is never used again: so nothing stale resumes the wrong one.
    parked: HashMap<u64, Run>,
    /// Which of them wait for the task with this ticket: pairs of ticket and number.
    awaited: BTreeSet<(u64, u64)>,
    /// When they want to go on by themselves; entries of those that went on earlier are skipped.
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    next_id: u64,
    /// A coroutine that has ended well and can be used again.
    spare: Option<Thread>,
    /// Closed by `drop`, on this thread.
    lua: Option<mlua::Lua>,
}

/// A coroutine and the registry reference that keeps it.
#[derive(Clone, Copy)]
struct Thread {
    state: *mut lua_State,
    reference: c_int,
}

/// A task that has been started.
struct Run {
    task: Box<Task>,
    thread: Thread,
    /// The code of a loaded function that is to be given back.
    borrowed: Option<u64>,
    /// A registry reference to the completion that is still to be called.
    completion: Option<c_int>,
    /// The ticket that it awaits while parked.
    ticket: Option<u64>,
}

impl executor::Runner for Runner {
    fn run(&mut self, task: Box<Task>) {
        let code = task.code;
        self.worker.set_running(code);
        // SAFETY: on the worker's thread, with no Lua running.
        unsafe { self.start(task) };
        self.worker.set_running(0);
    }

    fn turn(&mut self) -> bool {
        if !self.ready() {
            return false;
        }
        // SAFETY: on the worker's thread, with no Lua running.
        unsafe {
            self.deliver();
            self.fire();
        }
        true
    }

    fn ready(&self) -> bool {
        let inst = self.inst_ref();
        // Mail may have been taken in by a task that blocked: then it waits where that put it.
        inst.has_mail() || inst.has_news() || self.deadline().is_some_and(|at| at <= Instant::now())
    }

    fn deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    fn parked(&self) -> usize {
        // What this state has submitted comes back to it: it stays until then.
        self.parked.len() + self.inst_ref().pending
    }
}

impl Runner {
    /// For calls during which user code runs: it borrows nothing.
    fn inst_ptr(&mut self) -> *mut Inst {
        self.inst()
    }

    /// Its codec, likewise.
    fn transfer(&mut self) -> *mut Transfer {
        &raw mut self.inst().transfer
    }

    /// The inst of this worker's state.
    fn inst_ref(&self) -> &Inst {
        // SAFETY: the slot is a userdata in the registry of our state, filled until `drop` closes that.
        unsafe { (*self.slot).0.as_deref().expect("a worker's inst lives as long as its state") }
    }

    fn inst(&mut self) -> &mut Inst {
        // SAFETY: as above; the reference ends before Lua runs again.
        unsafe { (*self.slot).0.as_deref_mut().expect("a worker's inst lives as long as its state") }
    }

    /// Decodes a task and runs it until it ends or parks.
    unsafe fn start(&mut self, mut task: Box<Task>) {
        let main = self.main;
        // SAFETY: the main thread's stack is empty between tasks, and left so.
        unsafe {
            context::apply(self.inst(), main, &task);
            let (completes, carries_tls) = (task.completes, task.carries_tls);
            let (count, borrowed) = match Transfer::decode(self.transfer(), main, &task.packet, true) {
                Ok(decoded) => decoded,
                Err(error) => return self.end(task, Outcome::Failed(error)),
            };
            let thread = match self.thread() {
                Ok(thread) => thread,
                Err(error) => {
                    lua::lua_settop(main, 0);
                    self.release(borrowed);
                    return self.end(task, Outcome::Failed(error));
                }
            };
            let mut arguments = count - 1;
            if carries_tls {
                arguments -= 1;
                self.set_tls(thread);
            }
            let mut completion = None;
            if completes {
                arguments -= 1;
                completion = self.keep_top();
            }
            task.packet.clear();
            task.carries_tls = false;
            if arguments > 12 && lua::lua_checkstack(thread.state, arguments + 5) == 0 {
                lua::lua_settop(main, 0);
                self.drop_thread(thread, borrowed);
                return self.end(task, Outcome::Failed(Error::new(Code::Memory, "too many arguments")));
            }
            lua::lua_xmove(main, thread.state, arguments + 1);
            self.resume(Run { task, thread, borrowed, completion, ticket: None }, arguments);
        }
    }

    /// A coroutine for the next run.
    unsafe fn thread(&mut self) -> Result<Thread> {
        if let Some(thread) = self.spare.take() {
            return Ok(thread);
        }
        let main = self.main;
        let mut thread = Thread { state: ptr::null_mut(), reference: lua::LUA_NOREF };
        // SAFETY: the closure owns nothing.
        unsafe {
            let status = self.inst().protect.call(main, 0, |state| {
                thread.state = lua::lua_newthread(state);
                thread.reference = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
                0
            });
            if status != lua::LUA_OK {
                lua::lua_pop(main, 1);
                return Err(Error::new(Code::Memory, "the worker's state is out of memory"));
            }
        }
        Ok(thread)
    }

    /// Takes the value on top into the registry.
    unsafe fn keep_top(&mut self) -> Option<c_int> {
        let main = self.main;
        let mut reference = None;
        // SAFETY: the closure owns nothing.
        unsafe {
            let status = self.inst().protect.call(main, 1, |state| {
                reference = Some(lua::luaL_ref(state, lua::LUA_REGISTRYINDEX));
                0
            });
            if status != lua::LUA_OK {
                lua::lua_pop(main, 1);
            }
        }
        reference
    }

    /// Takes the table on top as the `_TLS` of a coroutine.
    unsafe fn set_tls(&mut self, thread: Thread) {
        let main = self.main;
        let inst = self.inst();
        inst.tls_used = true;
        let map = inst.refs.tls;
        // SAFETY: the closure owns nothing.
        unsafe {
            let status = inst.protect.call(main, 1, |state| {
                lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, map.into());
                lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, thread.reference.into());
                lua::lua_pushvalue(state, 2);
                lua::lua_rawset(state, -3);
                0
            });
            if status != lua::LUA_OK {
                lua::lua_pop(main, 1);
            }
        }
    }

    /// Resumes a coroutine with the topmost values of its stack, and sees to what comes of it.
    unsafe fn resume(&mut self, run: Run, arguments: c_int) {
        let (main, thread) = (self.main, run.thread.state);
        let mut count = 0;
        // SAFETY: a coroutine of this state that can be resumed, with its arguments on top. It is never
        // entered through another way while this runner has it: its `Run` is here.
        let status = unsafe {
            self.inst().current = thread;
            let status = lua::lua_resume(thread, main, arguments, &mut count);
            self.inst().current = ptr::null_mut();
            status
        };
        let park = self.inst().park.take();
        // SAFETY: the coroutine's stack is as `lua_resume` left it.
        unsafe {
            match (status, park) {
                (lua::LUA_OK, _) => self.returned(run, count),
                (lua::LUA_YIELD, Some(park)) => {
                    lua::lua_pop(thread, count);
                    self.park(run, park);
                }
                (lua::LUA_YIELD, None) => self.raised(run, Some("attempt to yield from outside a coroutine")),
                (lua::LUA_ERRMEM, _) => {
                    let error = Error::new(Code::Memory, "the worker's state ran out of memory");
                    self.abandon(run, Outcome::Failed(error));
                }
                _ => self.raised(run, None),
            }
        }
    }

    fn park(&mut self, mut run: Run, park: Park) {
        self.next_id += 1;
        let id = self.next_id;
        let deadline = match park {
            Park::Until(at) => Some(at),
            Park::Ticket(ticket, deadline) => {
                run.ticket = Some(ticket);
                self.awaited.insert((ticket, id));
                deadline
            }
        };
        if let Some(at) = deadline {
            self.timers.push(Reverse((at, id)));
        }
        self.worker.park(run.task.code);
        self.parked.insert(id, run);
    }

    /// Goes on with tasks whose awaited task has ended, and dispatches completions of this state.
    unsafe fn deliver(&mut self) {
        self.inst().collect();
        let main = self.main;
        // SAFETY: the main thread's stack is empty, and left so.
        unsafe {
            while let Some(task) = self.inst().waiting.pop_front() {
                outcome::dispatch(self.inst_ptr(), main, task);
            }
            outcome::sweep(self.inst_ptr(), main);
            for ticket in std::mem::take(&mut self.inst().news) {
                let waiting: Vec<u64> =
                    self.awaited.range((ticket, 0)..=(ticket, u64::MAX)).map(|pair| pair.1).collect();
                for id in waiting {
                    self.wake(id);
                }
            }
        }
    }

    /// Goes on with tasks whose time has come.
    unsafe fn fire(&mut self) {
        // Those that are due now: one that sleeps again for no time must not keep the queue waiting.
        let now = Instant::now();
        for _ in 0..self.timers.len() {
            let Some(Reverse((at, id))) = self.timers.peek().copied() else { break };
            if at > now {
                break;
            }
            self.timers.pop();
            // SAFETY: as in `deliver`.
            unsafe { self.wake(id) };
        }
    }

    /// Resumes a parked task, if it is still parked, without values: what it waited for it finds itself.
    unsafe fn wake(&mut self, id: u64) {
        let Some(mut run) = self.parked.remove(&id) else { return };
        if let Some(ticket) = run.ticket.take() {
            self.awaited.remove(&(ticket, id));
        }
        self.worker.unpark(run.task.code);
        self.worker.set_running(run.task.code);
        // SAFETY: on the worker's thread, with no Lua running.
        unsafe {
            let main = self.main;
            context::apply(self.inst(), main, &run.task);
            if lua::lua_status(run.thread.state) != lua::LUA_YIELD {
                let text = "the task's coroutine was resumed by another one";
                self.abandon(run, Outcome::Failed(Error::new(Code::Lost, text)));
                return self.worker.set_running(0);
            }
        }
        // SAFETY: the coroutine was parked by a yield.
        unsafe { self.resume(run, 0) };
        self.worker.set_running(0);
    }

    /// A function has returned `count` values: they are the task's, or its completion's arguments.
    unsafe fn returned(&mut self, mut run: Run, count: c_int) {
        let (main, thread) = (self.main, run.thread.state);
        // SAFETY: the values are on top of the coroutine's stack.
        unsafe {
            if let Some(completion) = run.completion.take() {
                // The coroutine has ended well, so it can be resumed with another function.
                lua::lua_checkstack(thread, 5);
                lua::lua_pushboolean(thread, 1);
                lua::lua_insert(thread, -(count + 1));
                self.push_kept(completion, thread);
                lua::lua_insert(thread, -(count + 2));
                return self.resume(run, count + 1);
            }
            if run.task.completes {
                lua::lua_settop(thread, 0);
                self.recycle(run.thread, run.borrowed);
                return self.end(run.task, Outcome::Returned);
            }
            let outcome = match self.take_values(&mut run.task, thread, count) {
                Ok(count) => {
                    Transfer::encode(self.transfer(), main, &mut run.task.packet, count, Roots::Results)
                }
                Err(error) => Err(error),
            };
            lua::lua_settop(main, 0);
            self.recycle(run.thread, run.borrowed);
            self.end(run.task, outcome.map_or_else(Outcome::Failed, |()| Outcome::Returned));
        }
    }

    /// Moves values from a coroutine to the main thread, and behind them its `_TLS` if it has one and a caller
    /// waits for it; returns how many there are then.
    unsafe fn take_values(&mut self, task: &mut Task, thread: *mut lua_State, count: c_int) -> Result<c_int> {
        let main = self.main;
        // SAFETY: the values are on top of the coroutine's stack; room is made in a protected call.
        unsafe {
            if count > 40 {
                let room = count.saturating_add(20);
                let status = self.inst().protect.call(main, 0, |state| {
                    lua::luaL_checkstack(state, room, ptr::null());
                    0
                });
                // The room stays when the call is over only if it is asked for here too.
                if status != lua::LUA_OK || lua::lua_checkstack(main, room) == 0 {
                    lua::lua_settop(main, 0);
                    return Err(Error::new(Code::Memory, "too many results for the Lua stack"));
                }
            }
            lua::lua_xmove(thread, main, count);
            if !self.inst().tls_used || Kind::of(task.ticket) != Kind::Caller {
                return Ok(count);
            }
            lua::lua_rawgeti(main, lua::LUA_REGISTRYINDEX, self.inst().refs.sendable_tls.into());
            lua::lua_pushthread(thread);
            lua::lua_xmove(thread, main, 1);
            if lua::lua_pcall(main, 1, 1, 0) != lua::LUA_OK || lua::lua_istable(main, -1) == 0 {
                lua::lua_pop(main, 1);
                return Ok(count);
            }
            task.carries_tls = true;
            Ok(count + 1)
        }
    }

    /// A function has raised: its error value is on top of the coroutine's stack; `message` replaces it.
    unsafe fn raised(&mut self, mut run: Run, message: Option<&str>) {
        let (main, thread) = (self.main, run.thread.state);
        // SAFETY: the closures own nothing; the main thread's stack is empty before and after.
        unsafe {
            let protect = self.inst().protect;
            // The traceback first: closing the coroutine unwinds its stack.
            let status = protect.call(main, 0, |state| {
                lua::luaL_traceback(state, thread, ptr::null(), 0);
                match message {
                    Some(text) => lua::push_bytes(state, text.as_bytes()),
                    None => lua::lua_xmove(thread, state, 1),
                }
                lua::close_thread(state, thread, -1);
                2
            });
            if status != lua::LUA_OK {
                let error = Error::new(Code::Memory, "the worker's state ran out of memory");
                return self.abandon(run, Outcome::Failed(error));
            }
            lua::lua_insert(main, -2);
            if let Some(completion) = run.completion.take() {
                return self.complete_failed(run, completion);
            }
            let extra = self.take_values(&mut run.task, thread, 0).unwrap_or(0);
            // Kept: if the error value cannot travel, its text goes in its place.
            for _ in 0..2 + extra {
                lua::lua_pushvalue(main, -(2 + extra));
            }
            let mut encoded =
                Transfer::encode(self.transfer(), main, &mut run.task.packet, 2 + extra, Roots::Error);
            if let Err(error) = &encoded {
                let note = error.to_string();
                let status = protect.call(main, 2 + extra, |state| {
                    lua::luaL_tolstring(state, 2, ptr::null_mut());
                    lua::lua_pushliteral(state, c" (");
                    lua::push_bytes(state, note.as_bytes());
                    lua::lua_pushliteral(state, c")");
                    lua::lua_concat(state, 4);
                    lua::lua_replace(state, 2);
                    2 + extra
                });
                if status == lua::LUA_OK {
                    encoded = Transfer::encode(
                        self.transfer(),
                        main,
                        &mut run.task.packet,
                        2 + extra,
                        Roots::Error,
                    );
                }
            }
            lua::lua_settop(main, 0);
            self.abandon(run, encoded.map_or_else(Outcome::Failed, |()| Outcome::Raised));
        }
    }

    /// Calls the completion of a task that failed, in a new coroutine: the task's own is dead. On the main
    /// thread's stack are the error value and the traceback.
    unsafe fn complete_failed(&mut self, mut run: Run, completion: c_int) {
        let main = self.main;
        // SAFETY: the old coroutine is given up; the new one gets function and arguments.
        unsafe {
            self.drop_thread(run.thread, run.borrowed.take());
            match self.thread() {
                Ok(thread) => {
                    run.thread = thread;
                    lua::lua_pop(main, 1);
                    self.push_kept(completion, thread.state);
                    lua::lua_pushboolean(thread.state, 0);
                    lua::lua_xmove(main, thread.state, 1);
                    self.resume(run, 2);
                }
                Err(error) => {
                    lua::lua_settop(main, 0);
                    self.end(run.task, Outcome::Failed(error));
                }
            }
        }
    }

    /// Pushes a kept value onto a coroutine's stack and lets go of its reference.
    unsafe fn push_kept(&mut self, reference: c_int, thread: *mut lua_State) {
        // SAFETY: our reference; neither call raises.
        unsafe {
            lua::lua_rawgeti(self.main, lua::LUA_REGISTRYINDEX, reference.into());
            lua::luaL_unref(self.main, lua::LUA_REGISTRYINDEX, reference);
            lua::lua_xmove(self.main, thread, 1);
        }
    }

    fn release(&mut self, borrowed: Option<u64>) {
        if let Some(code) = borrowed {
            self.inst().transfer.release(code);
        }
    }

    /// Ends a task whose coroutine cannot be used again.
    unsafe fn abandon(&mut self, run: Run, outcome: Outcome) {
        // SAFETY: no Lua runs; the main thread's stack is emptied.
        unsafe {
            lua::lua_settop(self.main, 0);
            if let Some(completion) = run.completion {
                lua::luaL_unref(self.main, lua::LUA_REGISTRYINDEX, completion);
            }
            self.drop_thread(run.thread, run.borrowed);
        }
        self.end(run.task, outcome);
    }

    unsafe fn drop_thread(&mut self, thread: Thread, borrowed: Option<u64>) {
        self.release(borrowed);
        // SAFETY: our reference, used no more.
        unsafe { lua::luaL_unref(self.main, lua::LUA_REGISTRYINDEX, thread.reference) };
    }

    /// Keeps a coroutine that has ended well for the next task, with nothing of this one left in it.
    unsafe fn recycle(&mut self, thread: Thread, borrowed: Option<u64>) {
        // SAFETY: the coroutine has ended; its stack is its own to clear.
        unsafe {
            if self.spare.is_some() || (self.inst().tls_used && !self.clear_tls(thread)) {
                return self.drop_thread(thread, borrowed);
            }
            self.release(borrowed);
            lua::lua_settop(thread.state, 0);
            lua::renew_thread(self.main, thread.state);
            self.spare = Some(thread);
        }
    }

    /// Drops the `_TLS` of a coroutine; `false` if that failed.
    unsafe fn clear_tls(&mut self, thread: Thread) -> bool {
        let main = self.main;
        let map: lua_Integer = self.inst().refs.tls.into();
        // SAFETY: the closure owns nothing.
        unsafe {
            let status = self.inst().protect.call(main, 0, |state| {
                lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, map);
                lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, thread.reference.into());
                lua::lua_pushnil(state);
                lua::lua_rawset(state, -3);
                0
            });
            if status != lua::LUA_OK {
                lua::lua_pop(main, 1);
            }
            status == lua::LUA_OK
        }
    }

    fn end(&mut self, task: Box<Task>, outcome: Outcome) {
        self.worker.count_ended();
        task.finish(outcome);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // The inst goes with its state: finalizers that run meanwhile may still use it.
        drop(self.lua.take());
    }
}

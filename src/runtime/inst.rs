//! What one Lua state keeps: its inbox, its tasks that are on their way, and its caches.
//!
//! Owned by the state (it lives in a userdata of its registry) and used by the state's thread alone; other
//! threads know only its inbox. A task is, from here, in one of four places: with a pool, in `waiting`
//! (ended, to be dispatched by `poll`), in `tickets` (ended, to be taken by whoever waits), or in `free`.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::ptr;
use std::time::{Duration, Instant};

use super::context::ContextCache;
use super::tickets::{Kind, Tickets};
use crate::completion::{Bell, HostBell, Inbox, WorkerBell};
use crate::error::{Code, Error};
use crate::executor::{Outcome, Pool, Task, Worker};
use crate::lua::{self, lua_State};
use crate::sync::Arc;
use crate::transfer::Transfer;

/// How long a blocked host spins before it sleeps. See `executor::worker::SPIN`.
const SPIN: Duration = Duration::from_micros(25);
/// Bytes of tasks kept for reuse: between two collections of Lua's, and after one.
const KEEP: usize = 64 << 20;
const KEEP_IDLE: usize = 4 << 20;

/// What a task that is about to yield waits for.
#[derive(Clone, Copy, Debug)]
pub enum Park {
    /// A moment.
    Until(Instant),
    /// The end of the task with this ticket, perhaps only until a moment.
    Ticket(u64, Option<Instant>),
}

/// Registry references that the module's bindings provide.
#[derive(Clone, Copy)]
pub struct References {
    /// The metatable of error objects.
    pub error: c_int,
    /// Ticket to completion function.
    pub callbacks: c_int,
    /// Coroutine to `_TLS` table, weak keys.
    pub tls: c_int,
    /// `report(err, traceback, task)`: calls what `on_error` set.
    pub report: c_int,
    /// `sendable_tls(coroutine)`: a copy of its `_TLS` without what cannot travel.
    pub sendable_tls: c_int,
    /// What `report` does without a handler: used when the state closes.
    pub last_report: c_int,
    /// The metatable of pool objects; id to pool object, weak values; the metatable of futures.
    pub pool: c_int,
    pub pools: c_int,
    pub future: c_int,
    /// Slot of a ticket to future, weak values.
    pub futures: c_int,
    /// The metatable of the userdata whose collection tells that Lua collects.
    pub gc: c_int,
    /// `merge(tls)`: takes changes of a task's `_TLS` back.
    pub merge: c_int,
}

/// The userdata in the registry. Empty once its state closes, while finalizers may still call.
pub struct Slot(pub Option<Box<Inst>>);

/// See the head of this file.
pub struct Inst {
    /// Values in and out.
    pub transfer: Transfer,
    /// Protected calls.
    pub protect: lua::Protect,
    /// From the bindings.
    pub refs: References,
    /// The worker whose state this is; `None` for a host's.
    pub worker: Option<Arc<Worker>>,
    /// Ended tasks that `poll` dispatches.
    pub waiting: VecDeque<Box<Task>>,
    /// Who waits for which task.
    pub tickets: Tickets,
    /// Tickets of futures whose tasks failed, until somebody has looked: see `outcome::sweep`.
    pub(super) failures: Vec<u64>,
    /// Tickets of tasks that arrived since the runner last looked; only in a worker.
    pub(super) news: Vec<u64>,
    /// Tasks whose outcome has not been delivered.
    pub pending: usize,
    /// Set by whoever is about to yield a task's coroutine, taken by the runner.
    pub park: Option<Park>,
    /// The coroutine of the task that runs, in a worker.
    pub current: *mut lua_State,
    /// Whether any `_TLS` was ever written here.
    pub tls_used: bool,
    /// The error that is being raised, kept here while Lua jumps.
    pub failure: Option<Error>,
    /// Pools by the names that were used for them.
    pub pools: Vec<(Vec<u8>, Arc<Pool>)>,
    pub(super) context: ContextCache,
    inbox: Arc<Inbox>,
    bell: Option<Arc<HostBell>>,
    /// Empty between calls of `collect`.
    fresh: VecDeque<Box<Task>>,
    free: Vec<Box<Task>>,
    free_bytes: usize,
    /// The fork generation: see [`forget_parent`](Inst::forget_parent).
    generation: u64,
    /// The state is closing: what is submitted now would have nobody to come back to.
    pub closing: bool,
    /// Spinning is for nothing where the one processor is this thread's.
    spins: bool,
    /// Whether the host knows the descriptor, which then must tell the truth at all times.
    exposed: bool,
}

impl Inst {
    /// For a host's state, or with `worker` for a worker's. May raise, and owns nothing while it does.
    ///
    /// # Safety
    /// `state` is the running thread of its state, with ten stack slots free.
    pub unsafe fn new(
        state: *mut lua_State,
        transfer: Transfer,
        refs: References,
        worker: Option<Arc<Worker>>,
    ) -> Inst {
        // SAFETY: as the caller says. A worker's `Arc` leaks if this raises: then there is no memory for
        // an empty state either, and the worker is given up.
        let (protect, context) = unsafe { (lua::Protect::new(state), ContextCache::new(state)) };
        let host = worker.is_none().then(|| Arc::new(HostBell::default()));
        let bell: Arc<dyn Bell> = match (&host, &worker) {
            (Some(bell), _) => bell.clone(),
            (None, Some(worker)) => Arc::new(WorkerBell(worker.clone())),
            (None, None) => unreachable!("a host has a bell"),
        };
        Inst {
            transfer,
            protect,
            refs,
            worker,
            waiting: VecDeque::new(),
            tickets: Tickets::default(),
            failures: Vec::new(),
            news: Vec::new(),
            pending: 0,
            park: None,
            current: ptr::null_mut(),
            tls_used: false,
            failure: None,
            pools: Vec::new(),
            context,
            inbox: Arc::new(Inbox::new(bell)),
            bell: host,
            fresh: VecDeque::new(),
            free: Vec::new(),
            free_bytes: 0,
            generation: crate::sys::generation(),
            spins: crate::sys::processor_count() > 1,
            closing: false,
            exposed: false,
        }
    }

    /// Whether this is the process in which the inst was made, or last made new.
    pub fn is_of_this_process(&self) -> bool {
        self.generation == crate::sys::generation()
    }

    /// In the child of a fork: forgets what is the parent's, without freeing or locking it. Tasks that the
    /// parent had submitted are lost here; the parent gets their outcomes.
    pub fn forget_parent(&mut self) {
        self.generation = crate::sys::generation();
        let bell = Arc::new(HostBell::default());
        std::mem::forget(std::mem::replace(&mut self.inbox, Arc::new(Inbox::new(bell.clone()))));
        std::mem::forget(self.bell.replace(bell));
        std::mem::forget(std::mem::take(&mut self.free));
        std::mem::forget(std::mem::take(&mut self.waiting));
        std::mem::forget(std::mem::take(&mut self.pools));
        (self.free_bytes, self.pending, self.exposed) = (0, 0, false);
        for ticket in self.tickets.outstanding() {
            let mut task = self.new_task(ticket);
            let text = "the task was submitted before this process was forked";
            task.outcome = Outcome::Failed(Error::new(Code::Lost, text));
            self.tickets.end(task);
        }
    }

    /// An empty task with this ticket, for this inst as its sink.
    pub fn new_task(&mut self, ticket: u64) -> Box<Task> {
        let mut task = match self.free.pop() {
            Some(task) => {
                self.free_bytes -= size_of_task(&task);
                task
            }
            None => Task::new(self.inbox.clone()),
        };
        task.ticket = ticket;
        task
    }

    /// Takes the box of a task whose outcome was delivered, to fill it again.
    pub fn recycle(&mut self, mut task: Box<Task>) {
        if !std::ptr::addr_eq(Arc::as_ptr(&task.sink), Arc::as_ptr(&self.inbox)) {
            return; // from before a fork: its way leads to the parent's inbox
        }
        task.packet.clear();
        task.outcome = Outcome::Pending;
        task.completes = false;
        task.carries_tls = false;
        let bytes = size_of_task(&task);
        if self.free_bytes + bytes <= KEEP {
            self.free_bytes += bytes;
            self.free.push(task);
        }
    }

    /// Lua has collected: gives back most of the memory that a burst of tasks took, if that is over, and has
    /// outcomes dropped whose futures are gone.
    pub fn lua_has_collected(&mut self) {
        self.tickets.request_sweep();
        let before = self.free_bytes;
        while self.pending == 0
            && self.free_bytes > KEEP_IDLE
            && let Some(task) = self.free.pop()
        {
            self.free_bytes -= size_of_task(&task);
        }
        self.free.shrink_to(2 * self.free.len());
        if before - self.free_bytes > KEEP_IDLE {
            self.waiting.shrink_to(1024);
            self.fresh.shrink_to(1024);
            crate::sys::give_back_memory();
        }
    }

    /// Sorts what has come into the inbox; returns how much of it nobody dispatches: outcomes that futures
    /// and callers take.
    pub fn collect(&mut self) -> usize {
        if self.inbox.is_empty() {
            return 0;
        }
        let mut fresh = std::mem::take(&mut self.fresh);
        self.inbox.take(&mut fresh);
        let before = self.pending;
        while let Some(task) = fresh.pop_front() {
            match Kind::of(task.ticket) {
                Kind::Detached | Kind::Callback => self.waiting.push_back(task),
                Kind::Caller | Kind::Future => self.arrive(task),
            }
        }
        self.fresh = fresh;
        before - self.pending
    }

    fn arrive(&mut self, task: Box<Task>) {
        self.pending -= 1;
        if self.worker.is_some() {
            self.news.push(task.ticket);
        }
        if Kind::of(task.ticket) == Kind::Future && !matches!(task.outcome, Outcome::Returned) {
            self.failures.push(task.ticket);
        }
        self.tickets.end(task);
    }

    /// Whether [`collect`](Inst::collect) would find anything.
    pub fn has_mail(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Whether this thread may block in a wait: not when so many of its pool's threads block already that no
    /// other could take its place, since then it might wait for itself.
    pub fn may_block(&self) -> crate::error::Result<()> {
        match self.worker.as_ref().and_then(|worker| worker.pool()) {
            Some(pool) if !pool.may_block() => Err(Error::new(
                Code::Deadlock,
                format!("too many tasks of pool '{}' block their threads", pool.options.name),
            )),
            _ => Ok(()),
        }
    }

    /// Whether something was collected that the runner has not seen.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty() || !self.waiting.is_empty()
    }

    /// Blocks this thread until `ready` says so (`true`), or until the deadline (`false`). Only collects:
    /// completions wait for the next poll.
    pub fn block_until(
        &mut self,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&mut Inst) -> bool,
    ) -> bool {
        let start = Instant::now();
        let mut blocking = None;
        let came = loop {
            self.collect();
            if ready(self) {
                break true;
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                break false;
            }
            if self.spin(start) {
                continue;
            }
            // The thread is about to be lost to its pool: another worker takes its place meanwhile.
            if let Some(pool) = self.worker.as_ref().and_then(|worker| worker.pool())
                && blocking.is_none()
            {
                blocking = Some(pool.block());
            }
            self.sleep(deadline);
        };
        self.settle();
        came
    }

    /// Looks for mail until [`SPIN`] has passed since `start`.
    fn spin(&self, start: Instant) -> bool {
        while self.spins && start.elapsed() < SPIN {
            for _ in 0..64 {
                if self.has_mail() {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }

    fn sleep(&mut self, deadline: Option<Instant>) {
        let Some(bell) = &self.bell else {
            // A worker: its bell unparks it.
            match deadline {
                None => std::thread::park(),
                Some(at) => std::thread::park_timeout(at.saturating_duration_since(Instant::now())),
            }
            return;
        };
        if bell.arm().is_err() {
            // No descriptor to be had: look again soon.
            std::thread::sleep(Duration::from_micros(200));
            return;
        }
        if self.inbox.is_empty() {
            bell.wait(deadline);
        }
        if !self.exposed {
            bell.disarm();
        }
        bell.clear();
    }

    /// The descriptor for the host's loop. From now on it is readable exactly while something waits.
    pub fn expose(&mut self) -> std::io::Result<c_int> {
        let Some(bell) = &self.bell else {
            return Err(std::io::Error::other("a worker has no descriptor"));
        };
        let fd = bell.arm()?;
        if !self.exposed {
            self.exposed = true;
            self.settle();
        }
        Ok(fd)
    }

    /// Makes the descriptor tell the truth after the owner has looked into its inbox.
    pub fn settle(&mut self) {
        let (true, Some(bell)) = (self.exposed, &self.bell) else { return };
        if self.waiting.is_empty() {
            bell.clear();
        }
        // After the clear: what came before it has not been seen, what comes after it rings by itself.
        if !self.waiting.is_empty() || !self.inbox.is_empty() {
            bell.ring();
        }
    }

    /// The state closes: nothing arrives any more. Returns what has arrived and was not dispatched.
    pub fn close(&mut self) -> VecDeque<Box<Task>> {
        let mut rest = std::mem::take(&mut self.waiting);
        rest.extend(self.tickets.close());
        self.inbox.close(&mut rest);
        rest
    }
}

impl Drop for Inst {
    fn drop(&mut self) {
        self.close();
    }
}

fn size_of_task(task: &Task) -> usize {
    size_of::<Task>() + task.packet.spilled()
}

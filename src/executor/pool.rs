//! A pool: a queue, its workers, and the rule by which it grows and shrinks.
//!
//! Life: running, then shutting down (runs what is queued, takes nothing new), then terminated (its last
//! worker has gone). Workers are started by the submit that needs them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::queue::Queue;
use super::sizing::{self, Snapshot};
use super::sleep::Sleep;
use super::task::{Factory, Task};
use super::worker::{self, Worker};
use crate::error::{Code, Error, Result};
use crate::sync::{Arc, AtomicUsize, Condvar, Mutex, Ordering, lock};

/// What a pool is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, also that of its threads: `<name>-worker-<n>`.
    pub name: String,
    /// Workers that stay, however idle.
    pub min: usize,
    /// The most workers.
    pub max: usize,
    /// How long a worker above `min` idles before it leaves.
    pub idle: Duration,
    /// Bytes of stack of each worker's thread.
    pub stack_size: usize,
}

const RUNNING: u8 = 0;
const SHUTTING_DOWN: u8 = 1;
const TERMINATED: u8 = 2;

/// An executor: a queue and its workers.
pub struct Pool {
    /// Unique in this process; "CPU" is 0 and "IO" is 1.
    pub id: u32,
    /// What it was made with.
    pub options: Options,
    /// The fork generation in which it was made: in any other it must not be touched.
    generation: u64,
    queue: Queue<Box<Task>>,
    sleep: Sleep<Worker>,
    factory: Arc<dyn Factory>,
    state: AtomicU8,
    /// Workers that exist, or are being started.
    size: AtomicUsize,
    /// Workers whose thread waits inside a task.
    blocked: AtomicUsize,
    /// Handles in Lua states.
    handles: AtomicUsize,
    /// Spinning is for nothing where there is one processor only.
    spins: bool,
    /// Tasks of workers that have left; the others keep their own count.
    ended_before: AtomicU64,
    staff: Mutex<Staff>,
    terminated: Condvar,
}

/// Who works here; changes only when a worker comes or goes.
#[derive(Default)]
struct Staff {
    workers: Vec<Arc<Worker>>,
    threads: HashMap<usize, JoinHandle<()>>,
    /// The thread that left last, which the next one to leave joins: so that no thread is left unjoined
    /// except the very last, and nobody waits for long.
    last_to_leave: Option<JoinHandle<()>>,
    next_number: usize,
}

impl Pool {
    /// A pool without workers; `registry` gives it its id.
    pub(super) fn new(id: u32, options: Options, factory: Arc<dyn Factory>) -> Arc<Pool> {
        Arc::new(Pool {
            id,
            options,
            generation: crate::sys::generation(),
            queue: Queue::new(),
            sleep: Sleep::new(),
            factory,
            state: AtomicU8::new(RUNNING),
            size: AtomicUsize::new(0),
            blocked: AtomicUsize::new(0),
            handles: AtomicUsize::new(0),
            spins: crate::sys::processor_count() > 1,
            ended_before: AtomicU64::new(0),
            staff: Mutex::default(),
            terminated: Condvar::new(),
        })
    }

    /// Queues a task; the pool owes it an end from then on. Refused, the task comes back.
    pub fn submit(self: &Arc<Self>, task: Box<Task>) -> std::result::Result<(), (Box<Task>, Error)> {
        if let Err(error) = self.accepts() {
            return Err((task, error));
        }
        self.queue.push(task);
        if self.size.load(Ordering::Relaxed) < self.options.max || !self.sleep.notify() {
            self.staff_up();
        }
        // Shut down meanwhile: the workers may all have gone before they could see the task.
        if self.state.load(Ordering::SeqCst) != RUNNING {
            self.staff_up();
        }
        Ok(())
    }

    /// Whether a submit would be taken now.
    pub fn accepts(&self) -> Result<()> {
        if self.state.load(Ordering::SeqCst) != RUNNING {
            return Err(Error::new(Code::Rejected, format!("pool '{}' is shut down", self.options.name)));
        }
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            size: self.size.load(Ordering::SeqCst),
            idle: self.sleep.idle(),
            blocked: self.blocked.load(Ordering::SeqCst),
            min: self.options.min,
            max: self.options.max,
        }
    }

    /// Makes sure that what is queued will be looked at: by an idle worker, by a new one, or, where there
    /// can be none, by nobody: then it is rejected.
    pub(super) fn staff_up(self: &Arc<Self>) {
        loop {
            let now = self.snapshot();
            let wanted = sizing::wants_worker(now) || (now.size == 0 && !self.queue.is_empty());
            if !wanted {
                // An idle one was counted, but may have just left: look again.
                if self.sleep.notify() || now.size >= sizing::ceiling(now) {
                    return;
                }
                std::hint::spin_loop();
                continue;
            }
            if self.size.compare_exchange(now.size, now.size + 1, Ordering::SeqCst, Ordering::SeqCst).is_err()
            {
                continue;
            }
            if let Err(error) = self.hire() {
                self.not_hired(error);
            }
            return;
        }
    }

    /// Starts a worker; its place in `size` is taken already.
    fn hire(self: &Arc<Self>) -> Result<()> {
        let mut staff = lock(&self.staff);
        if self.state.load(Ordering::SeqCst) == TERMINATED {
            return Err(Error::new(Code::Rejected, format!("pool '{}' is shut down", self.options.name)));
        }
        staff.next_number += 1;
        let number = staff.next_number;
        let worker = Arc::new(Worker::new(self, number));
        let (pool, theirs, factory) = (self.clone(), worker.clone(), self.factory.clone());
        let name = format!("{}-worker-{number}", self.options.name);
        self.sleep.start_search(); // the new worker's
        let thread =
            crate::sys::spawn(name, self.options.stack_size, move || worker::main(pool, theirs, &*factory))
                .map_err(|why| {
                self.sleep.leave();
                Error::new(Code::Rejected, format!("no thread could be started: {why}"))
            })?;
        staff.threads.insert(number, thread);
        staff.workers.push(worker);
        Ok(())
    }

    /// A worker could not be started, or could not start its runner: its place is free again. Those that are
    /// left see to the queue; if there is none, what is queued is rejected, and the next submit tries again.
    pub(super) fn not_hired(&self, error: Error) {
        if self.size.fetch_sub(1, Ordering::SeqCst) > 1 {
            self.sleep.notify();
            return;
        }
        while let Some(task) = self.queue.pop() {
            task.fail(error.clone());
        }
        self.terminate_if_done(&lock(&self.staff));
    }

    /// Whether there are more workers than there may be, now that nobody blocks whom they stood in for.
    pub(super) fn is_over_size(&self) -> bool {
        self.size.load(Ordering::Relaxed) > self.options.max
            && self.size.load(Ordering::SeqCst) > sizing::ceiling(self.snapshot())
    }

    pub(super) fn queue(&self) -> &Queue<Box<Task>> {
        &self.queue
    }

    pub(super) fn sleep(&self) -> &Sleep<Worker> {
        &self.sleep
    }

    /// Whether idle workers must go because the pool is shut down and nothing is queued.
    pub(super) fn is_done(&self) -> bool {
        self.state.load(Ordering::SeqCst) != RUNNING && self.queue.is_empty()
    }

    /// An idle worker asks to leave; if it may, its place is free when this returns.
    pub(super) fn try_leave(self: &Arc<Self>, idle_time_over: bool) -> bool {
        loop {
            let now = self.snapshot();
            if !self.is_done() && !sizing::may_leave(now, idle_time_over) {
                return false;
            }
            if self.size.compare_exchange(now.size, now.size - 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            {
                return true;
            }
        }
    }

    /// The last act of a worker's thread: it is off the list, and the thread that left before it joined.
    pub(super) fn left(self: &Arc<Self>, worker: &Arc<Worker>) {
        self.ended_before.fetch_add(worker.ended(), Ordering::Relaxed);
        let before = {
            let mut staff = lock(&self.staff);
            staff.workers.retain(|other| !Arc::ptr_eq(other, worker));
            let mine = staff.threads.remove(&worker.number);
            std::mem::replace(&mut staff.last_to_leave, mine)
        };
        if let Some(thread) = before {
            let _ = thread.join();
        }
        // A task that was queued while this worker made up its mind needs another one.
        if !self.queue.is_empty() {
            self.staff_up();
        }
        self.terminate_if_done(&lock(&self.staff));
    }

    /// The only way to [`TERMINATED`]: shut down, nothing queued, and no thread that has not said goodbye.
    fn terminate_if_done(&self, staff: &Staff) {
        if self.is_done() && staff.workers.is_empty() && self.size.load(Ordering::SeqCst) == 0 {
            self.state.store(TERMINATED, Ordering::SeqCst);
            self.terminated.notify_all();
        }
    }

    /// Takes no new task from now on; what is queued and running goes on to its end.
    pub fn shutdown(self: &Arc<Self>) {
        {
            let staff = lock(&self.staff);
            if self
                .state
                .compare_exchange(RUNNING, SHUTTING_DOWN, Ordering::SeqCst, Ordering::SeqCst)
                .is_err()
            {
                return;
            }
            self.terminate_if_done(&staff);
        }
        self.sleep.wake_all();
    }

    /// Waits until a pool that was shut down has ended its tasks and its threads; `false` at the deadline.
    pub fn wait_for_termination(&self, deadline: Option<Instant>) -> bool {
        let mut staff = lock(&self.staff);
        while self.state.load(Ordering::SeqCst) != TERMINATED {
            staff = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                None => self.terminated.wait(staff).unwrap_or_else(|e| e.into_inner()),
                Some(Duration::ZERO) => return false,
                Some(left) => self.wait_some(staff, left),
            };
        }
        let last = staff.last_to_leave.take();
        drop(staff);
        if let Some(thread) = last {
            // A task may wait for the end of its own pool's threads, but not for its own.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        true
    }

    #[cfg(not(loom))]
    fn wait_some<'a>(
        &self,
        staff: crate::sync::MutexGuard<'a, Staff>,
        left: Duration,
    ) -> crate::sync::MutexGuard<'a, Staff> {
        self.terminated.wait_timeout(staff, left).unwrap_or_else(|e| e.into_inner()).0
    }

    #[cfg(loom)]
    fn wait_some<'a>(
        &self,
        staff: crate::sync::MutexGuard<'a, Staff>,
        _: Duration,
    ) -> crate::sync::MutexGuard<'a, Staff> {
        self.terminated.wait(staff).unwrap_or_else(|e| e.into_inner())
    }

    /// The calling worker's thread is about to wait inside a task: until the guard is dropped the pool may
    /// have one worker more, so that what the task waits for can run.
    pub fn block(self: &Arc<Self>) -> Blocking {
        self.blocked.fetch_add(1, Ordering::SeqCst);
        if !self.queue.is_empty() {
            self.staff_up();
        }
        Blocking(self.clone())
    }

    /// Whether a thread that blocks could still be replaced. Asked before the thread is counted, so half of
    /// the places are left for those that ask at the same time.
    pub fn may_block(&self) -> bool {
        self.blocked.load(Ordering::SeqCst) < sizing::MAX_COMPENSATION / 2
    }

    /// One handle more, in any state.
    pub fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// One handle less; `true` if it was the last.
    pub fn drop_handle(&self) -> bool {
        self.handles.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether idle workers spin before they sleep.
    pub(super) fn spins(&self) -> bool {
        self.spins
    }

    /// Tasks that wait in the queue.
    pub fn queue_length(&self) -> usize {
        self.queue.len()
    }

    /// Workers that exist.
    pub fn length(&self) -> usize {
        self.size.load(Ordering::SeqCst)
    }

    /// Whether it was made in this process, and not in one that this is a fork of.
    pub fn is_of_this_process(&self) -> bool {
        self.generation == crate::sys::generation()
    }

    /// Whether it takes tasks.
    pub fn is_running(&self) -> bool {
        self.state.load(Ordering::SeqCst) == RUNNING
    }

    /// Whether it was shut down and all its work has ended.
    pub fn is_terminated(&self) -> bool {
        self.state.load(Ordering::SeqCst) == TERMINATED
    }

    /// Tasks that have ended since the pool was made.
    pub fn ended(&self) -> u64 {
        let now: u64 = lock(&self.staff).workers.iter().map(|worker| worker.ended()).sum();
        now + self.ended_before.load(Ordering::Relaxed)
    }

    /// What runs or is parked now: for each task its thread's name and its code id.
    pub fn running(&self) -> Vec<(String, u64)> {
        let staff = lock(&self.staff);
        let name = |worker: &Worker| format!("{}-worker-{}", self.options.name, worker.number);
        staff.workers.iter().flat_map(|w| w.tasks().into_iter().map(move |code| (name(w), code))).collect()
    }
}

/// While it lives, one worker of the pool does not count: see [`Pool::block`].
pub struct Blocking(Arc<Pool>);

impl Drop for Blocking {
    fn drop(&mut self) {
        self.0.blocked.fetch_sub(1, Ordering::SeqCst);
    }
}

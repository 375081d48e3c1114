//! A worker: one thread, the runner that it owns, and what other threads may know of it.

use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::pool::Pool;
use super::sleep::Sleeper;
use super::task::{Factory, Runner};
use crate::sync::{Arc, Mutex, Ordering, lock, thread};

/// How long an idle worker looks for a task before it sleeps. A round trip of one task at a time is over
/// in less, and a sleeper on another processor costs 4 us to wake; a host that shares the processors must
/// not lose more than a few.
const SPIN: Duration = Duration::from_micros(12);

/// The part of a worker that other threads see.
pub struct Worker {
    /// Counts from 1 in each pool; never used again.
    pub number: usize,
    pool: Weak<Pool>,
    thread: OnceLock<thread::Thread>,
    /// The code id of the task that it runs, 0 if none.
    running: AtomicU64,
    /// The code ids of tasks that are parked here.
    parked: Mutex<Vec<u64>>,
    /// Tasks that have ended here. Written by this worker alone.
    ended: AtomicU64,
}

impl Worker {
    pub(super) fn new(pool: &Arc<Pool>, number: usize) -> Worker {
        Worker {
            number,
            pool: Arc::downgrade(pool),
            thread: OnceLock::new(),
            running: AtomicU64::new(0),
            parked: Mutex::new(Vec::new()),
            ended: AtomicU64::new(0),
        }
    }

    /// The pool that it works for, unless that is gone.
    pub fn pool(&self) -> Option<Arc<Pool>> {
        self.pool.upgrade()
    }

    /// For the runner: the task that runs from now on, 0 for none.
    pub fn set_running(&self, code: u64) {
        self.running.store(code, Ordering::Relaxed);
    }

    /// For the runner: a task has ended.
    pub fn count_ended(&self) {
        // A load and a store: nobody else writes.
        self.ended.store(self.ended.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Ends its sleep, or its next one if it is not asleep.
    pub fn wake_up(&self) {
        // Not started yet: it looks around before it first sleeps.
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// For the runner: a task is parked from now on.
    pub fn park(&self, code: u64) {
        lock(&self.parked).push(code);
    }

    /// For the runner: it goes on.
    pub fn unpark(&self, code: u64) {
        let mut parked = lock(&self.parked);
        if let Some(at) = parked.iter().rposition(|other| *other == code) {
            parked.swap_remove(at);
        }
    }

    /// The code ids of the tasks that run or are parked.
    pub(super) fn tasks(&self) -> Vec<u64> {
        let mut tasks = lock(&self.parked).clone();
        tasks.extend(Some(self.running.load(Ordering::Relaxed)).filter(|code| *code != 0));
        tasks
    }

    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Sleeper for Worker {
    fn wake(&self) {
        self.wake_up();
    }

    fn sleep(&self, deadline: Option<Instant>) {
        #[cfg(not(loom))]
        match deadline {
            None => thread::park(),
            Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
        }
        #[cfg(loom)]
        {
            let _ = deadline;
            thread::park();
        }
    }
}

/// The body of a worker's thread.
pub(super) fn main(pool: Arc<Pool>, worker: Arc<Worker>, factory: &dyn Factory) {
    let _ = worker.thread.set(thread::current());
    // A panic of the worker loop would leave tasks without an end: better no process than a silent hang.
    let guard = AbortOnPanic;
    match factory.start(worker.clone()) {
        Ok(mut runner) => work(&pool, &worker, &mut *runner),
        Err(error) => {
            pool.sleep().leave();
            pool.not_hired(error);
        }
    }
    std::mem::forget(guard);
    pool.left(&worker);
}

/// Runs tasks until the worker may leave.
fn work(pool: &Arc<Pool>, worker: &Arc<Worker>, runner: &mut dyn Runner) {
    // Whoever hired this worker has counted it as searching.
    if !search(pool, worker, runner) {
        return;
    }
    loop {
        // The queue first: whoever stopped searching for a task must start it before it does anything that may
        // take long, since nobody else was woken for it.
        if let Some(task) = pool.queue().pop() {
            runner.run(task);
            runner.turn();
            // One that stood in for a blocked colleague goes as soon as that is back, however much is queued.
            if pool.is_over_size() && runner.parked() == 0 && pool.try_leave(false) {
                return;
            }
        } else if !runner.turn() {
            pool.sleep().start_search();
            if !search(pool, worker, runner) {
                return;
            }
        }
    }
}

/// Looks for something to do, spinning and then sleeping; `false` when the worker has left the pool. It is
/// counted as searching when this is called, and as neither searching nor asleep when it returns.
fn search(pool: &Arc<Pool>, worker: &Arc<Worker>, runner: &mut dyn Runner) -> bool {
    let sleep = pool.sleep();
    let mut idle_since = Instant::now();
    loop {
        if spin(pool, runner) {
            if sleep.found(|| pool.queue().len() > 1) {
                pool.staff_up();
            }
            return true;
        }
        let idle_over = idle_since.elapsed() >= pool.options.idle;
        if runner.parked() == 0 && pool.try_leave(idle_over) {
            sleep.leave();
            // A submit that counted on this worker's search must not wait until its state is closed.
            if !pool.queue().is_empty() {
                pool.staff_up();
            }
            return false;
        }
        if idle_over {
            idle_since = Instant::now();
        }
        let idle_end = (pool.length() > pool.options.min).then(|| idle_since + pool.options.idle);
        let deadline = [runner.deadline(), idle_end].into_iter().flatten().min();
        sleep.fall_asleep(worker, deadline, || {
            !pool.queue().is_empty() || runner.ready() || (pool.is_done() && runner.parked() == 0)
        });
    }
}

/// Looks at the queue and the runner for as long as [`SPIN`]; `true` when there is something to do.
fn spin(pool: &Pool, runner: &dyn Runner) -> bool {
    let found = || !pool.queue().is_empty() || runner.ready();
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if found() {
                return true;
            }
            std::hint::spin_loop();
        }
        if !pool.spins() || start.elapsed() >= SPIN || pool.is_done() {
            return found();
        }
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        eprintln!("threadpool: a worker thread panicked; this is a bug of the module");
        std::process::abort();
    }
}

//! Idle workers: who searches, who sleeps, and whom a submit must wake.
//!
//! The protocol and its proof sketch are in `README.md`. In short: a submitter wakes a sleeper only when
//! nobody searches; a worker that stops searching without having found anything looks once more after it
//! has said so; and the last searcher that finds something wakes the next, so that a burst of tasks wakes
//! all the workers it needs with one wake-up from the submitter.

use std::time::Instant;

use crate::sync::{Arc, AtomicUsize, Mutex, Ordering, fence, lock};

/// Something that sleeps and can be woken.
pub trait Sleeper: Send + Sync {
    /// Ends its sleep, or its next one if it is not asleep.
    fn wake(&self);
    /// Sleeps until woken or until the deadline; may also end for no reason.
    fn sleep(&self, deadline: Option<Instant>);
}

/// Who is idle in one pool.
pub struct Sleep<S> {
    /// Workers that look for a task, and those just woken for one.
    searching: AtomicUsize,
    /// The length of `asleep`, readable without its lock.
    sleeping: AtomicUsize,
    /// Most recently fallen asleep last: that one is woken first, and the oldest ages out.
    asleep: Mutex<Vec<Arc<S>>>,
}

impl<S: Sleeper> Sleep<S> {
    /// Nobody is idle.
    pub fn new() -> Sleep<S> {
        Sleep {
            searching: AtomicUsize::new(0),
            sleeping: AtomicUsize::new(0),
            asleep: Mutex::new(Vec::new()),
        }
    }

    /// How many are idle: an estimate for sizing.
    pub fn idle(&self) -> usize {
        self.searching.load(Ordering::Relaxed) + self.sleeping.load(Ordering::Relaxed)
    }

    /// After a push: makes sure that somebody will look at the queue. `false` if nobody is idle: then
    /// every worker is busy and looks when it is done.
    pub fn notify(&self) -> bool {
        // Orders the push before the reads: pairs with the fence in `fall_asleep`.
        fence(Ordering::SeqCst);
        if self.searching.load(Ordering::SeqCst) > 0 {
            return true;
        }
        self.sleeping.load(Ordering::SeqCst) > 0 && self.wake_one()
    }

    fn wake_one(&self) -> bool {
        let woken = {
            let mut asleep = lock(&self.asleep);
            let Some(sleeper) = asleep.pop() else { return false };
            // It searches from now on: further submits need not wake another. In this order, so that at
            // no moment it is counted as neither.
            self.searching.fetch_add(1, Ordering::SeqCst);
            self.sleeping.fetch_sub(1, Ordering::SeqCst);
            sleeper
        };
        woken.wake();
        true
    }

    /// Wakes all that sleep: the pool changes its state.
    pub fn wake_all(&self) {
        while self.wake_one() {}
    }

    /// A worker looks for a task: it has run out of them, or is being started.
    pub fn start_search(&self) {
        self.searching.fetch_add(1, Ordering::SeqCst);
    }

    /// A searcher has found something to do; `more` says whether the queue holds more after that. `true` if
    /// it does and nobody is idle who could look at it: then the pool may have to grow.
    pub fn found(&self, more: impl FnOnce() -> bool) -> bool {
        self.searching.fetch_sub(1, Ordering::SeqCst) == 1 && more() && !self.notify()
    }

    /// A searcher leaves the pool.
    pub fn leave(&self) {
        self.searching.fetch_sub(1, Ordering::SeqCst);
    }

    /// A searcher gives up: sleeps until it is woken, `deadline` passes, or `work` sees something. It
    /// searches again when this returns.
    pub fn fall_asleep(&self, me: &Arc<S>, deadline: Option<Instant>, work: impl Fn() -> bool) {
        {
            let mut asleep = lock(&self.asleep);
            asleep.push(me.clone());
            self.sleeping.fetch_add(1, Ordering::SeqCst);
        }
        self.searching.fetch_sub(1, Ordering::SeqCst);
        // A submitter that still saw this worker searching has pushed before this fence.
        fence(Ordering::SeqCst);
        if !work() {
            me.sleep(deadline);
        }
        let mut asleep = lock(&self.asleep);
        // Still listed: nobody woke it for a task. Otherwise the waker has counted it as searching.
        if let Some(at) = asleep.iter().position(|other| Arc::ptr_eq(other, me)) {
            asleep.remove(at);
            self.searching.fetch_add(1, Ordering::SeqCst);
            self.sleeping.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

//! A task, and the traits through which the executor reaches what it does not know.
//!
//! The box of a task makes the whole round: filled by the submitter, run by a worker, which writes the
//! outcome over the packet, and given to the sink, where the submitter takes it and may fill it again. So
//! a steady flow of tasks allocates nothing here, and touches no reference count.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use super::Worker;
use crate::codec::Packet;
use crate::error::{Error, Result};
use crate::sync::AtomicPtr;

/// How a task ended; with values, they are in its packet.
#[derive(Debug, Default)]
pub enum Outcome {
    /// It has not ended.
    #[default]
    Pending,
    /// The packet holds the results.
    Returned,
    /// User code raised: the packet holds the error value, then the traceback.
    Raised,
    /// The module could not run it, or could not bring its results back.
    Failed(Error),
}

/// What a worker's state takes over from the state that submitted, apart from the packet: Lua's search
/// paths as they were at submit.
#[derive(Debug, PartialEq, Eq)]
pub struct Context {
    /// `package.path`
    pub path: Box<[u8]>,
    /// `package.cpath`
    pub cpath: Box<[u8]>,
}

thread_local! {
    static LAST_SINK: Cell<Option<Arc<dyn Sink>>> = const { Cell::new(None) };
}

/// A function and its arguments, submitted once, ended exactly once.
pub struct Task {
    /// The function and its arguments; afterwards the outcome's values.
    pub packet: Packet,
    /// How it ended.
    pub outcome: Outcome,
    /// Means something to the submitter alone: who waits for this task.
    pub ticket: u64,
    /// The code id of its function, for people: see [`label`](crate::codec::label).
    pub code: u64,
    /// Whether the packet's second root is a completion to call on the worker.
    pub completes: bool,
    /// Whether the packet's last root is the submitter's `_TLS`, to be carried in and back.
    pub carries_tls: bool,
    /// Lua's search paths at submit.
    pub context: Option<Arc<Context>>,
    /// Where its outcome goes.
    pub sink: Arc<dyn Sink>,
    /// The link of whatever queue holds the finished task; of no meaning elsewhere.
    pub next: AtomicPtr<Task>,
}

impl Task {
    /// An empty task for the given sink.
    pub fn new(sink: Arc<dyn Sink>) -> Box<Task> {
        Box::new(Task {
            packet: Packet::default(),
            outcome: Outcome::Pending,
            ticket: 0,
            code: 0,
            completes: false,
            carries_tls: false,
            context: None,
            sink,
            next: AtomicPtr::new(std::ptr::null_mut()),
        })
    }

    /// Ends the task: hands it, with its outcome, to its sink.
    ///
    /// The submitter may take the task, and let go of the sink, before `accept` has returned: so this
    /// thread holds the sink too. It keeps hold of the last one, which is nearly always the next one, and
    /// saves two writes to a contended count per task.
    pub fn finish(mut self: Box<Self>, outcome: Outcome) {
        self.outcome = outcome;
        let sink = match LAST_SINK.take() {
            Some(last) if Arc::ptr_eq(&last, &self.sink) => last,
            _ => self.sink.clone(),
        };
        sink.accept(self);
        LAST_SINK.set(Some(sink));
    }

    /// Ends the task with an error of the module; what it carried is dropped here.
    pub fn fail(mut self: Box<Self>, error: Error) {
        self.packet.clear();
        self.finish(Outcome::Failed(error));
    }
}

/// Takes finished tasks back to their submitter. Called from any thread, never with a lock held.
pub trait Sink: Send + Sync {
    /// Takes over a task that has ended.
    fn accept(&self, task: Box<Task>);
}

/// Runs tasks on the thread of one worker, which made it and alone uses it.
pub trait Runner {
    /// Starts a task; it may be parked in the runner when this returns.
    fn run(&mut self, task: Box<Task>);
    /// Goes on with parked tasks that can; `true` if there were any.
    fn turn(&mut self) -> bool;
    /// Whether [`turn`](Runner::turn) would find something to do; cheap, it is asked while spinning.
    fn ready(&self) -> bool;
    /// When the next parked task wants to go on by itself.
    fn deadline(&self) -> Option<Instant>;
    /// How many tasks are parked; a worker with parked tasks does not leave.
    fn parked(&self) -> usize;
}

/// Makes the runner of a worker, on that worker's thread.
pub trait Factory: Send + Sync {
    /// A fresh runner; where no worker has one, queued tasks are rejected with the error.
    fn start(&self, worker: Arc<Worker>) -> Result<Box<dyn Runner>>;
}

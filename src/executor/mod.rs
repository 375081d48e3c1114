//! Layer 2: pools of worker threads. No Lua here: a [`Runner`] runs a task, a [`Sink`] takes its outcome.
//!
//! ```text
//! Pool::submit ─▶ queue (FIFO) ─▶ worker thread: Runner::run ─▶ Task::finish ─▶ Sink::accept
//!                  sizing: is a new worker needed?   sleep: must one be woken?
//! ```
//!
//! A task ends exactly once: whoever owns its box either runs it or finishes it with an error.
//! `README.md` in this folder explains the sleep protocol and why no wake-up is lost.

mod pool;
mod queue;
mod registry;
mod sizing;
mod sleep;
mod task;
mod worker;

pub use pool::{Options, Pool};
pub use registry::{by_id, by_name, close_host, create, list, open_host, reborn, retire};
pub use task::{Context, Factory, Outcome, Runner, Sink, Task};
pub use worker::Worker;

//! Layer 0: the operating system. Nothing here knows what a task is.

mod fork;
mod notifier;
mod thread;

pub use fork::generation;
pub use notifier::Notifier;
pub use thread::{processor_count, spawn};

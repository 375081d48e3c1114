//! Layer 2: outcomes on their way back to the state that submitted the tasks.
//!
//! Any thread pushes; the owner of the state alone drains. A push rings the bell only when the inbox was
//! empty, so a thousand outcomes that arrive together wake their host once.

mod bell;
mod inbox;

pub use bell::{Bell, HostBell, WorkerBell};
pub use inbox::Inbox;

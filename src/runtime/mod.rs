//! Layer 4: one Lua state per worker, and what every state that uses the module keeps.
//!
//! [`Inst`] belongs to a state, a host's or a worker's: the way out to pools and the way back in. The
//! [`Runner`](runner::Runner) of a worker owns its state and runs tasks in it as coroutines.

pub mod context;
mod inst;
mod outcome;
mod runner;
mod tickets;

pub use inst::{Inst, Park, References, Slot};
pub use outcome::{dispatch, push as push_outcome, push_error, report, sweep};
pub use runner::Workers;
pub use tickets::{Kind, slot_of};

//! Locks, atomics and threads: from `std`, or from `loom` when protocols are model-checked.
//!
//! The only place that knows which. Locks are never held while Lua runs, so a poisoned lock only says
//! that a thread of ours died between two plain assignments: [`lock`] goes on with the value.

#[cfg(loom)]
pub use loom::{
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};
#[cfg(not(loom))]
pub use std::{
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};

/// Locks, whether or not another thread panicked with the lock held.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

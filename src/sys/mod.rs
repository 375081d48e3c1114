//! Layer 0: the operating system. Nothing here knows what a task is.

mod fork;
mod notifier;
mod thread;

pub use fork::generation;
pub use notifier::Notifier;
pub use thread::{processor_count, spawn};

/// Asks the allocator to give freed memory back to the system: glibc keeps what lies below anything that is in
/// use. Takes milliseconds; for after large bursts.
pub fn give_back_memory() {
    // SAFETY: callable at any time from any thread.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

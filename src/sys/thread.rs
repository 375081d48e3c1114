//! Threads: named, with every signal blocked, so that the host's handlers run on the host's threads.

use std::io;
use std::thread::{Builder, JoinHandle};

/// How many processors this process may use: its affinity mask and, on Linux, its cgroup quota; at least 1.
pub fn processor_count() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Starts a thread called `name` (Linux shows the first 15 bytes) with a stack of `stack_size` bytes.
///
/// SIGURG alone stays deliverable: it is kept for cancelling a running task on its own thread.
pub fn spawn<F>(name: String, stack_size: usize, body: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    let _blocked = SignalsBlocked::new();
    // The operating system's names end at a NUL, and the builder panics at one.
    Builder::new().name(name.replace('\0', "")).stack_size(stack_size).spawn(body)
}

/// Blocks signals on this thread until dropped; a thread started meanwhile inherits the mask for good.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> SignalsBlocked {
        // SAFETY: both sets are plain data that the calls fill in; the pointers are to this frame.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigdelset(&mut all, libc::SIGURG);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            SignalsBlocked(before)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: restores the mask that `new` read on this same thread.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod test {
    #[test]
    fn a_thread_has_its_name_and_no_signals() {
        let handle = super::spawn("abc-worker-1".into(), 256 * 1024, || {
            assert_eq!(std::thread::current().name(), Some("abc-worker-1"));
            // SAFETY: reads this thread's mask into a local.
            unsafe {
                let mut mask: libc::sigset_t = std::mem::zeroed();
                libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &mut mask);
                assert_eq!(libc::sigismember(&mask, libc::SIGINT), 1);
                assert_eq!(libc::sigismember(&mask, libc::SIGURG), 0);
            }
        });
        handle.unwrap().join().unwrap();
    }

    #[test]
    fn there_is_a_processor() {
        assert!(super::processor_count() >= 1);
    }
}

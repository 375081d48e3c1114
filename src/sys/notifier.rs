//! A file descriptor that is readable after [`Notifier::signal`] and until [`Notifier::clear`].
//!
//! An eventfd on Linux, a pipe elsewhere; both are non-blocking and closed on exec. Signals do not count:
//! two before a clear are one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// The descriptor, or the two ends of a pipe.
#[derive(Debug)]
pub struct Notifier {
    read: OwnedFd,
    #[cfg(not(target_os = "linux"))]
    write: OwnedFd,
}

impl Notifier {
    /// Opens the descriptor; fails when the process has no more of them.
    #[cfg(target_os = "linux")]
    pub fn new() -> io::Result<Notifier> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(Notifier { read: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Opens the descriptors; fails when the process has no more of them.
    #[cfg(not(target_os = "linux"))]
    pub fn new() -> io::Result<Notifier> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for the two descriptors.
        if unsafe { libc::pipe(fds.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        for fd in fds {
            // SAFETY: flags of our own, fresh descriptors.
            unsafe {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
                libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
            }
        }
        // SAFETY: fresh descriptors that nothing else owns.
        unsafe { Ok(Notifier { read: OwnedFd::from_raw_fd(fds[0]), write: OwnedFd::from_raw_fd(fds[1]) }) }
    }

    /// The descriptor to watch for reading.
    pub fn fd(&self) -> RawFd {
        self.read.as_raw_fd()
    }

    /// Makes the descriptor readable; callable from any thread.
    pub fn signal(&self) {
        #[cfg(target_os = "linux")]
        let fd = self.read.as_raw_fd();
        #[cfg(not(target_os = "linux"))]
        let fd = self.write.as_raw_fd();
        let one = 1u64.to_ne_bytes();
        // A full counter or pipe (EAGAIN) is readable already: nothing to do about a failure.
        // SAFETY: the buffer outlives the call; an eventfd takes exactly these eight bytes.
        unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
    }

    /// Makes the descriptor unreadable until the next signal.
    pub fn clear(&self) {
        let mut buffer = [0u8; 64];
        // SAFETY: the buffer outlives the call. One read empties an eventfd; a pipe may need several.
        while unsafe { libc::read(self.fd(), buffer.as_mut_ptr().cast(), buffer.len()) } == 64 {}
    }

    /// Sleeps until the descriptor is readable (`true`) or `deadline` has passed (`false`).
    pub fn wait(&self, deadline: Option<Instant>) -> bool {
        loop {
            let millis = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                None => -1,
                // Rounded up: never early.
                Some(left) => left.div_ceil_millis(),
            };
            let mut poll = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid `pollfd` on this frame.
            let ready = unsafe { libc::poll(&mut poll, 1, millis) };
            if ready > 0 {
                return true;
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return false;
            }
        }
    }
}

trait Millis {
    fn div_ceil_millis(self) -> libc::c_int;
}

impl Millis for Duration {
    fn div_ceil_millis(self) -> libc::c_int {
        let millis = self.as_nanos().div_ceil(1_000_000);
        libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn readable_from_signal_to_clear() {
        let notifier = Notifier::new().unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(1));
        assert!(!notifier.wait(soon()));
        notifier.signal();
        notifier.signal();
        assert!(notifier.wait(None) && notifier.wait(soon()));
        notifier.clear();
        assert!(!notifier.wait(soon()));
    }

    #[test]
    fn a_signal_wakes_a_sleeper() {
        let notifier = std::sync::Arc::new(Notifier::new().unwrap());
        let theirs = notifier.clone();
        let thread = std::thread::spawn(move || theirs.wait(None));
        notifier.signal();
        assert!(thread.join().unwrap());
    }
}

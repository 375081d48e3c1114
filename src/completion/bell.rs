//! What an inbox rings: a descriptor that a host's loop watches, or a worker that sleeps.
//!
//! A signal through a descriptor is a system call. A host that is awake, or that never asked for the
//! descriptor, needs none: [`HostBell`] signals only while it is armed. Ringing reads `armed` after the
//! push; arming is followed by a look at the inbox; both are sequentially consistent, so one of the two
//! sees the other and nothing waits unseen.

use std::io;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::time::Instant;

use crate::executor::Worker;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::sys::Notifier;

/// Told that something has arrived in an empty inbox. Called from any thread.
pub trait Bell: Send + Sync {
    /// Something waits now.
    fn ring(&self);
}

/// Wakes a worker, whose loop looks into its inbox.
pub struct WorkerBell(pub Arc<Worker>);

impl Bell for WorkerBell {
    fn ring(&self) {
        self.0.wake_up();
    }
}

/// Makes a descriptor readable, while armed.
#[derive(Default)]
pub struct HostBell {
    armed: AtomicBool,
    notifier: OnceLock<Notifier>,
}

impl Bell for HostBell {
    fn ring(&self) {
        if self.armed.load(Ordering::SeqCst)
            && let Some(notifier) = self.notifier.get()
        {
            notifier.signal();
        }
    }
}

impl HostBell {
    /// Rings from now on. The caller looks at its inbox afterwards, and rings itself if something waits.
    /// Fails when no descriptor is to be had.
    pub fn arm(&self) -> io::Result<RawFd> {
        if self.notifier.get().is_none() {
            let _ = self.notifier.set(Notifier::new()?);
        }
        self.armed.store(true, Ordering::SeqCst);
        Ok(self.notifier.get().map_or(-1, Notifier::fd))
    }

    /// Stops ringing: the owner is awake and will look by itself.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// Makes the descriptor unreadable. The caller looks at its inbox afterwards.
    pub fn clear(&self) {
        if let Some(notifier) = self.notifier.get() {
            notifier.clear();
        }
    }

    /// Sleeps until it rings (`true`) or the deadline has passed (`false`). It must be armed.
    pub fn wait(&self, deadline: Option<Instant>) -> bool {
        self.notifier.get().is_some_and(|notifier| notifier.wait(deadline))
    }
}

//! Fork detection: a number that is larger in a child than in its parent.
//!
//! Threads do not survive `fork`, and locks may be held by threads that are gone. Whoever owns threads or
//! descriptors keeps the generation in which it made them and, when [`generation`] differs, forgets them:
//! it neither frees, joins nor locks what the parent's threads may have held.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(0);
static INSTALL: Once = Once::new();

extern "C" fn in_child() {
    // An atomic add is all that POSIX allows here, and all that is needed.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// How many forks lie between the process that first asked and this one.
pub fn generation() -> u64 {
    INSTALL.call_once(|| {
        // SAFETY: `in_child` is async-signal-safe and lives as long as the process, since the library pins
        // itself in memory. A failure (out of memory) leaves forks unnoticed, as without this module.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
    GENERATION.load(Ordering::Relaxed)
}

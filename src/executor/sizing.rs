//! When a pool grows: one pure function over a snapshot.

/// What a pool looks like at a submit.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Workers that exist.
    pub size: usize,
    /// Workers that look for a task or sleep.
    pub idle: usize,
    /// Workers whose thread is blocked in a wait of ours: they do not count against `max`.
    pub blocked: usize,
    /// The pool keeps at least that many.
    pub min: usize,
    /// And at most that many.
    pub max: usize,
}

/// However many workers block, no more than this many replace them.
pub const MAX_COMPENSATION: usize = 256;

/// The most workers that the pool may have now.
pub fn ceiling(now: Snapshot) -> usize {
    now.max + now.blocked.min(MAX_COMPENSATION)
}

/// Whether a task that was just queued calls for a new worker. The queue is unbounded, so the pool grows
/// before it queues (a pool that queued first would never pass `min`).
pub fn wants_worker(now: Snapshot) -> bool {
    let below_min = now.size < now.min;
    let all_busy = now.idle == 0;
    (below_min || all_busy) && now.size < ceiling(now)
}

/// Whether an idle worker may leave: at once when the pool is over its size, else after its idle time.
pub fn may_leave(now: Snapshot, idle_time_over: bool) -> bool {
    now.size > ceiling(now) || (idle_time_over && now.size > now.min)
}

#[cfg(test)]
mod test {
    use super::*;

    fn at(size: usize, idle: usize, blocked: usize, min: usize, max: usize) -> Snapshot {
        Snapshot { size, idle, blocked, min, max }
    }

    #[test]
    fn growth() {
        assert!(wants_worker(at(0, 0, 0, 0, 1)), "the first task");
        assert!(wants_worker(at(1, 1, 0, 2, 2)), "below min, even if one idles");
        assert!(!wants_worker(at(2, 0, 0, 2, 2)), "full");
        assert!(!wants_worker(at(1, 1, 0, 0, 5)), "an idle one is reused");
        assert!(wants_worker(at(1, 0, 0, 0, 5)), "all busy");
        assert!(wants_worker(at(2, 0, 1, 2, 2)), "a blocked one is replaced");
        assert!(!wants_worker(at(3, 0, 1, 2, 2)), "once");
        assert!(!wants_worker(at(2 + MAX_COMPENSATION, 0, 9999, 2, 2)), "within bounds");
    }

    #[test]
    fn leaving() {
        assert!(!may_leave(at(2, 2, 0, 2, 2), true));
        assert!(may_leave(at(3, 2, 0, 2, 2), false), "its blocked colleague goes on");
        assert!(may_leave(at(3, 2, 0, 0, 9), true));
        assert!(!may_leave(at(3, 2, 0, 0, 9), false));
    }
}

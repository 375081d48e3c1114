//! The inbox of one Lua state: finished tasks, pushed by any thread, taken by the owner.
//!
//! A Treiber stack that is always taken whole (so there is no ABA problem), linked through the tasks
//! themselves: a push allocates nothing and never waits. The owner reverses what it takes, which gives
//! back the order of the pushes.
//!
//! Invariant: each task on the stack is owned by the stack; `CLOSED` as head means that no owner will ever
//! come again, and what is pushed then is dropped.

use std::collections::VecDeque;
use std::ptr;

use super::Bell;
use crate::executor::{Sink, Task};
use crate::sync::{Arc, AtomicPtr, Ordering};

/// See the head of this file.
pub struct Inbox {
    head: AtomicPtr<Task>,
    bell: Arc<dyn Bell>,
}

fn closed() -> *mut Task {
    // Never dereferenced; no box is at the last address of memory.
    ptr::without_provenance_mut(usize::MAX)
}

impl Inbox {
    /// An open inbox that rings `bell` when something arrives in it while it is empty.
    pub fn new(bell: Arc<dyn Bell>) -> Inbox {
        Inbox { head: AtomicPtr::new(ptr::null_mut()), bell }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::SeqCst);
        head.is_null() || head == closed()
    }

    /// Takes all that waits and appends it to `to`, oldest first. For the owner only.
    pub fn take(&self, to: &mut VecDeque<Box<Task>>) {
        // Most of the time nothing waits: a load leaves the line shared where a swap would not.
        if self.is_empty() {
            return;
        }
        Self::append(self.head.swap(ptr::null_mut(), Ordering::SeqCst), to);
    }

    /// Takes all that waits and refuses whatever comes.
    pub fn close(&self, to: &mut VecDeque<Box<Task>>) {
        let head = self.head.swap(closed(), Ordering::SeqCst);
        if head != closed() {
            Self::append(head, to);
        }
    }

    fn append(mut head: *mut Task, to: &mut VecDeque<Box<Task>>) {
        let first = to.len();
        while !head.is_null() {
            // SAFETY: the pointer was made by `Box::into_raw` in `accept`, and the swap that gave us the
            // list made us its only owner.
            let task = unsafe { Box::from_raw(head) };
            head = task.next.load(Ordering::Relaxed);
            to.push_back(task);
        }
        to.make_contiguous()[first..].reverse();
    }
}

impl Sink for Inbox {
    fn accept(&self, task: Box<Task>) {
        let task = Box::into_raw(task);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head == closed() {
                // SAFETY: made above, and not published.
                drop(unsafe { Box::from_raw(task) });
                return;
            }
            // SAFETY: we own the task until the exchange below succeeds.
            unsafe { (*task).next.store(head, Ordering::Relaxed) };
            match self.head.compare_exchange_weak(head, task, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        if head.is_null() {
            self.bell.ring();
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close(&mut VecDeque::new());
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use super::*;
    use crate::sync::AtomicUsize;

    struct Count(AtomicUsize);

    impl Bell for Count {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn inbox() -> (Arc<Inbox>, Arc<Count>) {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        (Arc::new(Inbox::new(count.clone())), count)
    }

    fn send(inbox: &Arc<Inbox>, ticket: u64) {
        let mut task = Task::new(inbox.clone());
        task.ticket = ticket;
        task.finish(crate::executor::Outcome::Returned);
    }

    #[test]
    fn first_in_first_out_with_one_ring() {
        let (inbox, rings) = inbox();
        (0..5).for_each(|ticket| send(&inbox, ticket));
        let mut taken = VecDeque::new();
        inbox.take(&mut taken);
        assert_eq!(taken.iter().map(|task| task.ticket).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(rings.0.load(Ordering::SeqCst), 1);
        send(&inbox, 5);
        inbox.take(&mut taken);
        assert_eq!(taken.back().map(|task| task.ticket), Some(5));
        assert_eq!(rings.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn closed_takes_nothing() {
        let (inbox, rings) = inbox();
        send(&inbox, 1);
        let mut taken = VecDeque::new();
        inbox.close(&mut taken);
        assert_eq!(taken.len(), 1);
        send(&inbox, 2);
        assert!(inbox.is_empty());
        inbox.close(&mut taken);
        assert_eq!((taken.len(), rings.0.load(Ordering::SeqCst)), (1, 1));
    }

    #[test]
    fn many_pushers_lose_nothing_and_keep_their_order() {
        let (inbox, _) = inbox();
        let threads: Vec<_> = (0..4)
            .map(|t| {
                let inbox = inbox.clone();
                std::thread::spawn(move || (0..5000).for_each(|n| send(&inbox, t << 32 | n)))
            })
            .collect();
        let mut taken = VecDeque::new();
        while taken.len() < 4 * 5000 {
            inbox.take(&mut taken);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        for t in 0..4 {
            let theirs: Vec<_> = taken.iter().map(|task| task.ticket).filter(|n| n >> 32 == t).collect();
            assert!(theirs.is_sorted() && theirs.len() == 5000);
        }
    }
}

//! The queue of a pool: strictly first in, first out, from any thread to any worker.
//!
//! crossbeam's injector: an unbounded, block-linked queue (37 million items a second from one producer to
//! one consumer where a lock and a condition variable reach one million). Local deques with batched steals
//! would start tasks out of order. Under loom and Miri, which cannot follow its memory model, a list
//! behind a lock stands in.

#[cfg(not(any(loom, miri)))]
mod imp {
    use crossbeam_deque::{Injector, Steal};

    pub struct Queue<T>(Injector<T>);

    impl<T> Queue<T> {
        pub fn new() -> Queue<T> {
            Queue(Injector::new())
        }

        pub fn push(&self, item: T) {
            self.0.push(item);
        }

        pub fn pop(&self) -> Option<T> {
            loop {
                match self.0.steal() {
                    Steal::Success(item) => return Some(item),
                    Steal::Empty => return None,
                    Steal::Retry => std::hint::spin_loop(),
                }
            }
        }

        pub fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        pub fn len(&self) -> usize {
            self.0.len()
        }
    }
}

#[cfg(any(loom, miri))]
mod imp {
    use crate::sync::{Mutex, lock};
    use std::collections::VecDeque;

    pub struct Queue<T>(Mutex<VecDeque<T>>);

    impl<T> Queue<T> {
        pub fn new() -> Queue<T> {
            Queue(Mutex::new(VecDeque::new()))
        }

        pub fn push(&self, item: T) {
            lock(&self.0).push_back(item);
        }

        pub fn pop(&self) -> Option<T> {
            lock(&self.0).pop_front()
        }

        pub fn is_empty(&self) -> bool {
            lock(&self.0).is_empty()
        }

        pub fn len(&self) -> usize {
            lock(&self.0).len()
        }
    }
}

pub use imp::Queue;

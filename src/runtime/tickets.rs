//! Tickets: who waits for which task.
//!
//! A ticket says what becomes of the task when it ends, and has a slot where somebody waits. Slots are used
//! again, so that the tables indexed by them stay dense; a generation in the ticket tells the old owner
//! from the new one. A ticket fits a double exactly.

use crate::executor::Task;

/// What becomes of a task when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody waits; a failure is reported. Has no slot.
    Detached,
    /// A completion of the submitting state runs when that polls.
    Callback,
    /// A suspended or blocked caller takes it.
    Caller,
    /// A future takes it, unless it was collected.
    Future,
}

const KIND_BITS: u32 = 2;
const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 53 - SLOT_BITS - KIND_BITS;

impl Kind {
    /// Of a ticket.
    pub fn of(ticket: u64) -> Kind {
        match ticket & 3 {
            0 => Kind::Detached,
            1 => Kind::Callback,
            2 => Kind::Caller,
            _ => Kind::Future,
        }
    }
}

/// The slot of a ticket, from 1: its index in Lua tables.
pub fn slot_of(ticket: u64) -> usize {
    (ticket >> KIND_BITS) as usize & ((1 << SLOT_BITS) - 1)
}

/// The slots of one state.
#[derive(Default)]
pub struct Tickets {
    /// Slot 1 is at index 0.
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// When so many slots are in use, futures that were collected are looked for.
    sweep_at: usize,
}

struct Slot {
    generation: u32,
    kind: Kind,
    state: State,
}

enum State {
    Free,
    /// The task has not ended, or its outcome is on its way.
    Out,
    /// The outcome waits to be taken.
    Ended(Box<Task>),
}

impl Slot {
    /// Its ticket, given its index.
    fn ticket(&self, index: usize) -> u64 {
        let high = u64::from(self.generation) << (SLOT_BITS + KIND_BITS);
        high | (index as u64 + 1) << KIND_BITS | self.kind as u64
    }
}

impl Tickets {
    /// A ticket for a task that is about to be submitted; `None` when 16 million are out.
    pub fn issue(&mut self, kind: Kind) -> Option<u64> {
        if kind == Kind::Detached {
            return Some(0);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() + 1 < 1 << SLOT_BITS => {
                self.slots.push(Slot { generation: 0, kind, state: State::Free });
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let slot = self.slots.get_mut(index as usize)?;
        slot.generation = (slot.generation + 1) & ((1 << GENERATION_BITS) - 1);
        (slot.kind, slot.state) = (kind, State::Out);
        Some(slot.ticket(index as usize))
    }

    fn slot(&mut self, ticket: u64) -> Option<&mut Slot> {
        let generation = (ticket >> (SLOT_BITS + KIND_BITS)) as u32;
        let slot = self.slots.get_mut(slot_of(ticket).checked_sub(1)?)?;
        (slot.generation == generation && !matches!(slot.state, State::Free)).then_some(slot)
    }

    /// Keeps the outcome of a task until it is taken.
    pub fn end(&mut self, task: Box<Task>) {
        if let Some(slot) = self.slot(task.ticket) {
            slot.state = State::Ended(task);
        }
    }

    /// The ended task of this ticket, if it has come.
    pub fn peek(&self, ticket: u64) -> Option<&Task> {
        let generation = (ticket >> (SLOT_BITS + KIND_BITS)) as u32;
        match self.slots.get(slot_of(ticket).checked_sub(1)?) {
            Some(Slot { generation: of, state: State::Ended(task), .. }) if *of == generation => Some(task),
            _ => None,
        }
    }

    /// Takes the ended task of this ticket, which is void from then on; nothing if it has not come.
    pub fn take(&mut self, ticket: u64) -> Option<Box<Task>> {
        let slot = self.slot(ticket)?;
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Ended(task) => {
                self.free.push(slot_of(ticket) as u32 - 1);
                Some(task)
            }
            other => {
                slot.state = other;
                None
            }
        }
    }

    /// The tickets of futures and callers whose tasks have not ended.
    pub fn outstanding(&self) -> Vec<u64> {
        let waits = |slot: &Slot| {
            matches!(slot.state, State::Out) && matches!(slot.kind, Kind::Caller | Kind::Future)
        };
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| waits(slot))
            .map(|(at, slot)| slot.ticket(at))
            .collect()
    }

    /// Makes a ticket void whose task was not submitted, or does not wait here.
    pub fn release(&mut self, ticket: u64) {
        if let Some(slot) = self.slot(ticket) {
            slot.state = State::Free;
            self.free.push(slot_of(ticket) as u32 - 1);
        }
    }

    /// Whether a sweep may pay: it was asked for, or twice as many slots are in use as after the last one.
    pub fn wants_sweep(&self) -> bool {
        self.slots.len() - self.free.len() > self.sweep_at
    }

    /// Futures may have been collected: a sweep pays.
    pub fn request_sweep(&mut self) {
        self.sweep_at = 0;
    }

    /// Takes the ended tasks of futures that `is_alive`, asked by slot, does not know any more.
    pub fn sweep(&mut self, is_alive: impl Fn(usize) -> bool) -> Vec<Box<Task>> {
        let mut orphans = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.kind == Kind::Future && matches!(slot.state, State::Ended(_)) && !is_alive(index + 1) {
                if let State::Ended(task) = std::mem::replace(&mut slot.state, State::Free) {
                    orphans.push(task);
                }
                self.free.push(index as u32);
            }
        }
        self.sweep_at = (2 * (self.slots.len() - self.free.len())).max(1024);
        orphans
    }

    /// Takes all ended tasks; no ticket is good any more.
    pub fn close(&mut self) -> impl Iterator<Item = Box<Task>> + use<> {
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().filter_map(|slot| match slot.state {
            State::Ended(task) => Some(task),
            _ => None,
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::executor::{Outcome, Sink};
    use crate::sync::Arc;

    struct Nowhere;

    impl Sink for Nowhere {
        fn accept(&self, _: Box<Task>) {}
    }

    fn task(ticket: u64) -> Box<Task> {
        let mut task = Task::new(Arc::new(Nowhere));
        (task.ticket, task.outcome) = (ticket, Outcome::Returned);
        task
    }

    #[test]
    fn a_ticket_is_good_once() {
        let mut tickets = Tickets::default();
        let first = tickets.issue(Kind::Caller).unwrap();
        assert!(tickets.take(first).is_none());
        tickets.end(task(first));
        assert!(tickets.peek(first).is_some() && tickets.take(first).is_some());
        let second = tickets.issue(Kind::Caller).unwrap();
        assert_eq!(slot_of(first), slot_of(second));
        assert_ne!(first, second);
        tickets.end(task(first));
        assert!(tickets.peek(second).is_none() && tickets.take(first).is_none());
    }

    #[test]
    fn sweeping_takes_dropped_futures_only() {
        let mut tickets = Tickets::default();
        let all: Vec<u64> = (0..4).map(|_| tickets.issue(Kind::Future).unwrap()).collect();
        let caller = tickets.issue(Kind::Caller).unwrap();
        tickets.end(task(caller));
        all[..3].iter().for_each(|ticket| tickets.end(task(*ticket)));
        let orphans = tickets.sweep(|slot| slot == slot_of(all[0]));
        assert_eq!(orphans.len(), 2);
        assert!(tickets.peek(all[0]).is_some() && tickets.peek(all[1]).is_none());
        assert!(tickets.peek(caller).is_some());
    }
}

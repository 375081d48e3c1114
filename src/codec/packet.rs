//! A packet: owned bytes plus the shared handles that they name by index.
//!
//! Invariant: a packet holds no Lua value and no reference into a Lua state, so any thread may own or drop
//! it. Code travels as a handle, never as bytes: bytes that were damaged or forged must not reach the
//! bytecode loader, which no Lua verifies.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use smallvec::SmallVec;

use crate::sync::lock;

/// The bytes of a packet. A typical task fits inline: one allocation serves for it and its packet.
pub type Bytes = SmallVec<[u8; 128]>;

/// An encoded list of values.
#[derive(Default)]
pub struct Packet {
    /// The values, in the format of [`wire`](super::wire).
    pub bytes: Bytes,
    /// What the bytes name by index.
    pub handles: SmallVec<[Handle; 1]>,
}

/// Buffers larger than this are given back to the allocator instead of being reused.
const KEEP: usize = 16 * 1024;

impl Packet {
    /// Empties the packet; keeps its buffers for the next use unless they have grown large.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.handles.clear();
        if self.bytes.capacity() > KEEP {
            self.bytes = SmallVec::new();
        }
        if self.handles.capacity() > KEEP / 16 {
            self.handles = SmallVec::new();
        }
    }

    /// Bytes of memory that the packet holds beyond itself.
    pub fn spilled(&self) -> usize {
        let bytes = if self.bytes.spilled() { self.bytes.capacity() } else { 0 };
        let handles = if self.handles.spilled() { self.handles.capacity() * size_of::<Handle>() } else { 0 };
        bytes + handles
    }
}

/// Something that is shared, not copied, when a packet crosses.
#[derive(Clone)]
pub enum Handle {
    /// The code of a Lua function.
    Code(Arc<Code>),
    /// An object that is the same on both sides.
    Object(Arc<dyn Any + Send + Sync>),
}

/// A dumped Lua function: what workers load, once each, however often it is sent.
#[derive(Debug)]
pub struct Code {
    /// Unique in this process; the key of every cache of loaded functions.
    pub id: u64,
    /// What `lua_dump` wrote, with its debug information.
    pub bytes: Box<[u8]>,
    /// The number of upvalues.
    pub upvalues: u8,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static LABELS: Mutex<Option<HashMap<u64, Arc<str>>>> = Mutex::new(None);

impl Code {
    /// Takes over a dump; `place` says where the function was defined (`app.lua:12`).
    pub fn new(bytes: Box<[u8]>, upvalues: u8, place: &str) -> Arc<Code> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        lock(&LABELS).get_or_insert_default().insert(id, place.into());
        Arc::new(Code { id, bytes, upvalues })
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(labels) = lock(&LABELS).as_mut() {
            labels.remove(&self.id);
        }
    }
}

/// Where the function with this code id was defined, while its code is alive.
pub fn label(id: u64) -> Option<Arc<str>> {
    lock(&LABELS).as_ref()?.get(&id).cloned()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn labels_live_as_long_as_their_code() {
        let code = Code::new(Box::new([1, 2]), 0, "app.lua:3");
        let id = code.id;
        assert_eq!(label(id).as_deref(), Some("app.lua:3"));
        drop(code);
        assert_eq!(label(id), None);
    }

    #[test]
    fn clear_keeps_small_buffers_only() {
        let mut packet = Packet::default();
        packet.bytes.resize(1000, 0);
        packet.clear();
        assert!(packet.bytes.is_empty() && packet.spilled() >= 1000);
        packet.bytes.resize(KEEP * 4, 0);
        packet.clear();
        assert_eq!(packet.spilled(), 0);
    }
}

//! Functions that were sent or loaded before: neither dumped nor loaded again.
//!
//! Sending, a function object is recognised in a small ring of weak references (a cache keyed by its
//! address alone would go stale when it is collected), and a new closure of known code by its dump. Loading, a
//! function is kept under the id of its code.
//!
//! A loaded function may be used again when nobody can tell: when it has no upvalue but the globals, once
//! per packet (two closures must stay two); or when it is the function of a task that nothing else in the
//! packet refers to, no other run of it is alive, and its upvalue cells can be renewed, so that closures which
//! an earlier run left behind keep theirs. (Renewed, since upvalues are values of the task: see
//! `Flavor::renewable` for where that is not possible.)

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::hash::{BuildHasher, RandomState};
use std::slice;

use crate::codec;
use crate::lua::{self, Flavor, lua_State};
use crate::sync::Arc;

/// Slots of the ring; a function is looked up in one slot only.
const RING: usize = 256;
/// Dumps remembered by a submitting state, and functions kept loaded by a worker; past that all are forgotten.
const CACHE: usize = 1024;

/// Creates the ring's weak table. May raise.
pub unsafe fn new_ring(state: *mut lua_State) -> c_int {
    // SAFETY: balanced, three slots.
    unsafe {
        lua::lua_createtable(state, RING as c_int, 0);
        lua::lua_createtable(state, 0, 1);
        lua::lua_pushliteral(state, c"v");
        lua::lua_setfield(state, -2, c"__mode".as_ptr());
        lua::lua_setmetatable(state, -2);
        lua::luaL_ref(state, lua::LUA_REGISTRYINDEX)
    }
}

/// The code of functions that this state has sent.
pub struct Sent {
    ring: c_int,
    /// What each ring slot's function was dumped to.
    codes: Vec<Option<(*const c_void, Arc<codec::Code>)>>,
    by_dump: HashMap<u64, Arc<codec::Code>>,
    hasher: RandomState,
    dump: Vec<u8>,
}

/// Why there is no code for a function.
pub enum NoCode {
    /// It could not be dumped.
    Refused,
    /// No memory for the dump.
    Memory,
}

impl Sent {
    pub fn new(ring: c_int) -> Sent {
        Sent {
            ring,
            codes: vec![None; RING],
            by_dump: HashMap::new(),
            hasher: RandomState::new(),
            dump: Vec::new(),
        }
    }

    /// Whether this very function was sent before. Never raises.
    ///
    /// # Safety
    /// Two stack slots are free and the index is absolute.
    pub unsafe fn knows(&self, state: *mut lua_State, index: c_int) -> bool {
        // SAFETY: balanced.
        unsafe {
            let address = lua::lua_topointer(state, index);
            let slot = slot_of(address);
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, self.ring.into());
            lua::lua_rawgeti(state, -1, slot as lua::lua_Integer + 1);
            let known = lua::lua_topointer(state, -1) == address;
            lua::lua_pop(state, 2);
            known
        }
    }

    /// The code of the Lua function at `index`. May raise a memory error; `this` is a raw pointer because a
    /// finalizer may run meanwhile that sends, too.
    ///
    /// # Safety
    /// Three stack slots are free and the index is absolute.
    pub unsafe fn code(
        this: *mut Sent,
        state: *mut lua_State,
        index: c_int,
    ) -> Result<Arc<codec::Code>, NoCode> {
        // SAFETY: balanced; the function is anchored at `index` throughout.
        unsafe {
            let address = lua::lua_topointer(state, index);
            let slot = slot_of(address);
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*this).ring.into());
            lua::lua_rawgeti(state, -1, slot as lua::lua_Integer + 1);
            let known = lua::lua_topointer(state, -1) == address;
            lua::lua_pop(state, 1);
            if known && let Some(code) = (*this).known(slot, address) {
                lua::lua_pop(state, 1);
                return Ok(code);
            }
            // Listed before it is dumped, so that nothing is owned where Lua may raise; the slot is emptied
            // first, since an error must not leave it half right.
            (*this).remember(slot, None);
            lua::lua_pushvalue(state, index);
            lua::lua_rawseti(state, -2, slot as lua::lua_Integer + 1);
            lua::lua_pop(state, 1);
            let code = (*this).dump(state, index)?;
            (*this).remember(slot, Some((address, code.clone())));
            Ok(code)
        }
    }

    fn known(&self, slot: usize, address: *const c_void) -> Option<Arc<codec::Code>> {
        self.codes[slot].as_ref().filter(|(of, _)| *of == address).map(|(_, code)| code.clone())
    }

    fn remember(&mut self, slot: usize, code: Option<(*const c_void, Arc<codec::Code>)>) {
        self.codes[slot] = code;
    }

    /// Dumps the function and finds, or makes, the code for that dump.
    unsafe fn dump(&mut self, state: *mut lua_State, index: c_int) -> Result<Arc<codec::Code>, NoCode> {
        self.dump.clear();
        // SAFETY: the writer gets a pointer to a buffer that outlives the call and that nothing else uses.
        let status = unsafe {
            lua::lua_pushvalue(state, index);
            let buffer: *mut Vec<u8> = &mut self.dump;
            let status = lua::lua_dump(state, write, buffer.cast(), 0);
            lua::lua_pop(state, 1);
            status
        };
        match status {
            0 => {}
            OUT_OF_MEMORY => return Err(NoCode::Memory),
            _ => return Err(NoCode::Refused),
        }
        let hash = self.hasher.hash_one(&self.dump);
        if let Some(code) = self.by_dump.get(&hash)
            && *code.bytes == *self.dump
        {
            return Ok(code.clone());
        }
        // SAFETY: reads the function's debug information.
        let (place, upvalues) = unsafe { describe(state, index) };
        let code = codec::Code::new(self.dump.as_slice().into(), upvalues, &place);
        if self.by_dump.len() >= CACHE {
            self.by_dump.clear();
        }
        self.by_dump.insert(hash, code.clone());
        Ok(code)
    }
}

fn slot_of(function: *const c_void) -> usize {
    (function as usize >> 4).wrapping_mul(0x9e37_79b9) % RING
}

const OUT_OF_MEMORY: c_int = 1;

unsafe extern "C-unwind" fn write(
    _: *mut lua_State,
    bytes: *const c_void,
    size: usize,
    buffer: *mut c_void,
) -> c_int {
    if size == 0 {
        return 0;
    }
    // SAFETY: `dump` passes its buffer, and Lua a block of `size` bytes.
    let (buffer, bytes) =
        unsafe { (&mut *buffer.cast::<Vec<u8>>(), slice::from_raw_parts(bytes.cast(), size)) };
    if buffer.try_reserve(size).is_err() {
        return OUT_OF_MEMORY;
    }
    buffer.extend_from_slice(bytes);
    0
}

/// Where a Lua function was defined, `app.lua:12`, and how many upvalues it has. Never raises.
unsafe fn describe(state: *mut lua_State, index: c_int) -> (String, u8) {
    // SAFETY: `lua_getinfo` with `>` takes the function off the stack and fills in the local.
    unsafe {
        let mut info: lua::lua_Debug = std::mem::zeroed();
        lua::lua_pushvalue(state, index);
        lua::lua_getinfo(state, c">Su".as_ptr(), &mut info);
        let source = std::ffi::CStr::from_ptr(info.short_src.as_ptr()).to_string_lossy();
        (format!("{source}:{}", info.linedefined), info.nups as u8)
    }
}

/// Functions that this state has loaded.
#[derive(Default)]
pub struct Loaded {
    by_code: HashMap<u64, Entry>,
    /// Registry references of functions that make `n` fresh cells.
    factories: HashMap<u8, c_int>,
    packet: u64,
}

struct Entry {
    reference: c_int,
    /// The packet that it was last used in.
    packet: u64,
    /// A task runs it, with cells of its own.
    borrowed: bool,
}

/// How a function is met in a packet.
#[derive(Clone, Copy)]
pub struct Use {
    /// It has no upvalue but the globals.
    pub plain: bool,
    /// It is the function of a task, and nothing else in the packet refers to it.
    pub sole: bool,
    /// The number of the packet.
    pub packet: u64,
}

/// What [`Loaded::push`] pushed.
pub enum Pushed {
    /// A function whose cells nobody else has.
    Function,
    /// The same, to be given back with [`Loaded::release`].
    Borrowed,
    /// The message of a failed load.
    Failed,
    /// Lua's message that there is no memory to load it.
    OutOfMemory,
}

impl Loaded {
    /// A new packet is being decoded; its number tells it from those that are decoded meanwhile, by a module
    /// that is loaded for it.
    pub fn begin_packet(&mut self) -> u64 {
        self.packet += 1;
        self.packet
    }

    /// The run of a borrowed function has ended.
    pub fn release(&mut self, code: u64) {
        if let Some(entry) = self.by_code.get_mut(&code) {
            entry.borrowed = false;
        }
    }

    /// A function of this code that may be used now: marked as used.
    fn take(&mut self, code: &codec::Code, met: Use, renewable: bool) -> Option<c_int> {
        let entry = self.by_code.get_mut(&code.id)?;
        if entry.packet == met.packet || entry.borrowed || !(met.plain || renewable) {
            return None;
        }
        (entry.packet, entry.borrowed) = (met.packet, met.sole);
        Some(entry.reference)
    }

    /// Pushes a function of this code. May raise; `this` is a raw pointer because a finalizer may run
    /// meanwhile that decodes, too.
    ///
    /// # Safety
    /// Six stack slots are free; `globals` is the address of the state's globals.
    pub unsafe fn push(
        this: *mut Loaded,
        state: *mut lua_State,
        code: &codec::Code,
        met: Use,
        flavor: Flavor,
        globals: *const c_void,
    ) -> Pushed {
        let renewable = met.sole && flavor.renewable && code.upvalues <= lua::MAX_FACTORY_CELLS;
        let pushed = if met.sole { Pushed::Borrowed } else { Pushed::Function };
        // SAFETY: each branch leaves exactly one value; `this` is borrowed for single statements.
        unsafe {
            if let Some(reference) = (*this).take(code, met, renewable) {
                lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, reference.into());
                if !met.plain {
                    renew(this, state, code.upvalues);
                    return pushed;
                }
                if is_pristine(state, code.upvalues, globals) {
                    return pushed;
                }
                lua::lua_pop(state, 1);
                (*this).by_code.remove(&code.id);
                lua::luaL_unref(state, lua::LUA_REGISTRYINDEX, reference);
            }
            let bytes = code.bytes.as_ptr().cast();
            match lua::luaL_loadbufferx(state, bytes, code.bytes.len(), c"=task".as_ptr(), c"b".as_ptr()) {
                lua::LUA_OK => {}
                lua::LUA_ERRMEM => return Pushed::OutOfMemory,
                _ => return Pushed::Failed,
            }
            // `lua_load` allocates without looking at the collector, which a worker that is sent nothing but
            // code would otherwise never run. Pushing a string looks.
            lua::lua_pushliteral(state, c"");
            lua::lua_pop(state, 1);
            if (met.plain || renewable) && !(*this).by_code.contains_key(&code.id) {
                keep(this, state, code.id, met);
                return pushed;
            }
            Pushed::Function
        }
    }
}

/// Keeps the function on top for later. May raise.
unsafe fn keep(this: *mut Loaded, state: *mut lua_State, code: u64, met: Use) {
    // SAFETY: one slot; the reference is ours until `unref`, which sets existing fields only and does not raise.
    unsafe {
        if (*this).by_code.len() >= CACHE {
            // All but those that run: their tasks will give them back.
            (*this).by_code.retain(|_, entry| {
                if !entry.borrowed {
                    lua::luaL_unref(state, lua::LUA_REGISTRYINDEX, entry.reference);
                }
                entry.borrowed
            });
        }
        lua::lua_pushvalue(state, -1);
        let reference = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
        (*this).by_code.insert(code, Entry { reference, packet: met.packet, borrowed: met.sole });
    }
}

/// Gives the function on top `count` cells that nobody has. May raise.
unsafe fn renew(this: *mut Loaded, state: *mut lua_State, count: u8) {
    if count == 0 {
        return;
    }
    // SAFETY: the factory takes nothing and returns a closure with `count` upvalues.
    unsafe {
        match (*this).factories.get(&count).copied() {
            Some(reference) => {
                lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, reference.into());
            }
            None => {
                push_factory(state, count);
                lua::lua_pushvalue(state, -1);
                let reference = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
                (*this).factories.insert(count, reference);
            }
        }
        lua::lua_call(state, 0, 1);
        for n in 1..=c_int::from(count) {
            lua::upvalue_join(state, -2, n, -1, n);
        }
        lua::lua_pop(state, 1);
    }
}

/// Whether the function on top still has the globals as its only upvalue, or environment.
unsafe fn is_pristine(state: *mut lua_State, upvalues: u8, globals: *const c_void) -> bool {
    // SAFETY: pushes and pops one value.
    unsafe {
        if lua::HAS_FENV {
            lua::push_fenv(state, -1);
        } else if upvalues == 0 || lua::lua_getupvalue(state, -1, 1).is_null() {
            return true;
        }
        let same = lua::lua_topointer(state, -1) == globals;
        lua::lua_pop(state, 1);
        same
    }
}

/// Pushes `function() local a1, …; return function() return a1, … end end` for `count` cells.
unsafe fn push_factory(state: *mut lua_State, count: u8) {
    // A fixed buffer: a memory error of the load jumps over this frame.
    let mut source = [0u8; 2 * 5 * lua::MAX_FACTORY_CELLS as usize + 64];
    let mut length = 0;
    let mut put = |text: &[u8]| {
        for byte in text {
            if let Some(slot) = source.get_mut(length) {
                *slot = *byte;
                length += 1;
            }
        }
    };
    let names = |put: &mut dyn FnMut(&[u8])| {
        for n in 0..count {
            let (tens, ones) = (b'0' + n / 10, b'0' + n % 10);
            put(if n == 0 { b"a" } else { b",a" });
            put(&[tens, ones]);
        }
    };
    put(b"local ");
    names(&mut put);
    put(b" return function() return ");
    names(&mut put);
    put(b" end");
    // SAFETY: the buffer holds `length` bytes of Lua source that compiles on every Lua.
    unsafe {
        lua::luaL_loadbufferx(state, source.as_ptr().cast(), length, c"=cells".as_ptr(), c"t".as_ptr());
    }
}

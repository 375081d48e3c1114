//! Lua values into a packet.
//!
//! A loop over an explicit stack of frames, one per open table or function; the Lua stack holds, per
//! frame, the container and where its traversal stands. Past `MAX_DEPTH` levels a container is only
//! named, and its body is written after the roots: so neither stack grows with the depth of the data, and
//! a list of a million nodes costs the C stack nothing.
//!
//! Everything is written once: a container that is met again is named by the offset of its tag, which is
//! marked as shared when that happens (`codec/README.md`).

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::hash::{BuildHasherDefault, Hasher};

use super::Transfer;
use smallvec::SmallVec;

use super::functions::{NoCode, Sent};
use super::path::{self, Roots};
use crate::codec::wire::{self, MAX_DEPTH, MAX_KEYS, OutOfMemory, Writer, tag};
use crate::codec::{Handle, Packet};
use crate::error::{Code, Error};
use crate::lua::{self, lua_State};

/// One protected call: what the C function works on. Lives on the frame of [`Transfer::encode`].
pub struct Job<'a> {
    pub transfer: *mut Transfer,
    pub encoder: &'a mut Encoder,
    pub packet: &'a mut Packet,
    pub roots: Roots,
    /// Set when Lua's collector has to be started again: see `Walk::stop_collector`.
    pub collector_stopped: bool,
    /// Set when all is written.
    pub done: bool,
}

/// Scratch memory, used again by the next encode.
#[derive(Default)]
pub struct Encoder {
    frames: Vec<Frame>,
    /// Containers by address, cells by identity (an address of the same heap, never equal to one of a
    /// container that is alive): the offsets of their tags.
    seen: HashMap<*const c_void, usize, BuildHasherDefault<AddressHasher>>,
    /// Where the bytes of a key string are, and its index plus one: a small direct-mapped cache.
    keys: Keys,
    /// Root that is being written, from 0.
    root: usize,
    failure: Option<Error>,
}

struct Keys {
    slots: [(*const u8, u8); 256],
    /// How many keys the packet has numbered, and the slots that they went to.
    count: usize,
    used: [u8; MAX_KEYS],
}

impl Default for Keys {
    fn default() -> Keys {
        Keys { slots: [(std::ptr::null(), 0); 256], count: 0, used: [0; MAX_KEYS] }
    }
}

impl Keys {
    fn clear(&mut self) {
        for slot in &self.used[..self.count] {
            self.slots[usize::from(*slot)] = (std::ptr::null(), 0);
        }
        self.count = 0;
    }
}

/// A container that is being written. `slot` is where it is on the Lua stack; above it are the frame's own
/// values: for a table the key of the traversal, and the value while a container in the key is written.
#[derive(Clone, Copy)]
struct Frame {
    slot: c_int,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Counts are patched in at `at` in the end; `array` while the keys come as 1, 2, 3 …
    Table { at: usize, array: u32, pairs: u32, in_array: bool, value_next: bool, meta: Meta },
    /// `next` is the upvalue to write, from 1; past the last, where functions have one, the environment.
    Function { next: c_int, count: c_int },
    /// The bodies that were put off: `next` indexes the table of the later ones.
    Later { next: lua::lua_Integer },
}

/// What becomes of a table's metatable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meta {
    None,
    /// To be written after the pairs.
    Due,
    Written,
}

/// Addresses differ in their middle bits.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, n: usize) {
        let mixed = (self.0 ^ n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

impl Encoder {
    /// Makes ready for the next use; keeps scratch that is not large.
    pub fn clear(&mut self) {
        self.frames.clear();
        if self.seen.capacity() > 1024 {
            self.seen = HashMap::default();
        } else {
            self.seen.clear();
        }
        self.keys.clear();
        self.root = 0;
        self.failure = None;
    }

    /// Why the last encode failed.
    pub fn take_failure(&mut self) -> Error {
        self.failure.take().unwrap_or_else(|| Error::new(Code::Transfer, "encoding failed"))
    }
}

/// Stops the encode; the reason is in `Encoder::failure`.
struct Stop;

type Step = Result<(), Stop>;

/// The index of the job in the C function's frame; the roots follow.
const JOB: c_int = 1;

/// The C function: job, roots.
pub unsafe extern "C-unwind" fn entry(state: *mut lua_State) -> c_int {
    // SAFETY: `Transfer::encode` passes a pointer to a job that outlives this call. The walk owns nothing,
    // so errors that Lua raises through it leak nothing.
    unsafe {
        let job = &mut *lua::lua_touserdata(state, JOB).cast::<Job>();
        let roots = lua::lua_gettop(state) - JOB;
        loop {
            lua::lua_pushnil(state); // the table of what is written later, once there is any
            let mut walk = Walk {
                state,
                transfer: job.transfer,
                out: Writer::new(&mut job.packet.bytes),
                handles: &mut job.packet.handles,
                encoder: job.encoder,
                collector_stopped: &mut job.collector_stopped,
                kind: job.roots,
                later: JOB + roots + 1,
                later_count: 0,
                room: lua::lua_gettop(state) + lua::LUA_MINSTACK - 4,
                names_current: false,
                wrote_table: false,
                restart: false,
            };
            job.done = walk.all(roots).is_ok();
            if !walk.restart {
                return 0;
            }
            lua::lua_settop(state, JOB + roots);
            job.encoder.clear();
            job.packet.clear();
        }
    }
}

struct Walk<'a> {
    state: *mut lua_State,
    /// Raw: finalizers that run meanwhile may use it too.
    transfer: *mut Transfer,
    out: Writer<'a>,
    handles: &'a mut SmallVec<[Handle; 1]>,
    encoder: &'a mut Encoder,
    collector_stopped: &'a mut bool,
    kind: Roots,
    /// Stack index of the table of containers whose bodies come later.
    later: c_int,
    later_count: lua::lua_Integer,
    /// The stack index up to which there is certainly room.
    room: c_int,
    /// Whether the names were compared with `package.loaded` in this packet.
    names_current: bool,
    /// Whether any table was written with its contents.
    wrote_table: bool,
    /// New modules were found after that: the packet has to be begun again.
    restart: bool,
}

impl Walk<'_> {
    /// The whole packet: header, roots, later bodies.
    unsafe fn all(&mut self, roots: c_int) -> Step {
        let header = self.out.position();
        let written = self.write_header(roots);
        self.wrote(written)?;
        // SAFETY: the roots are at the indices after the job.
        unsafe {
            for root in 0..roots {
                self.encoder.root = root as usize;
                lua::lua_pushvalue(self.state, JOB + 1 + root);
                self.value(lua::lua_gettop(self.state))?;
                self.drain()?;
            }
            if self.later_count > 0 {
                lua::lua_pushvalue(self.state, self.later);
                let slot = lua::lua_gettop(self.state);
                self.encoder.frames.push(Frame { slot, kind: Kind::Later { next: 1 } });
                self.drain()?;
            }
        }
        self.out.patch(header + 1, self.encoder.keys.count as u8);
        Ok(())
    }

    fn write_header(&mut self, roots: c_int) -> Result<(), OutOfMemory> {
        self.out.byte(wire::VERSION)?;
        self.out.byte(0)?;
        self.out.varint(roots as u64)
    }

    /// Works until no frame is open. On entry and exit the values of open frames are on the stack.
    unsafe fn drain(&mut self) -> Step {
        while let Some(frame) = self.encoder.frames.last().copied() {
            // SAFETY: the frame's container is at its slot.
            unsafe {
                match frame.kind {
                    Kind::Table { .. } => self.table(frame)?,
                    Kind::Function { next, count } => self.function(frame.slot, next, count)?,
                    Kind::Later { next } => self.next_later(frame.slot, next)?,
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, kind: Kind) {
        if let Some(frame) = self.encoder.frames.last_mut() {
            frame.kind = kind;
        }
    }

    /// Takes the innermost frame and its container away.
    unsafe fn close(&mut self) {
        if let Some(frame) = self.encoder.frames.pop() {
            // SAFETY: everything from the slot up belongs to the frame.
            unsafe { lua::lua_settop(self.state, frame.slot - 1) };
        }
    }

    /// Goes on with a table until it is written or a container in it has to be written first.
    unsafe fn table(&mut self, frame: Frame) -> Step {
        let Kind::Table { at, mut array, mut pairs, mut in_array, value_next, mut meta } = frame.kind else {
            return Ok(());
        };
        let (state, slot) = (self.state, frame.slot);
        // SAFETY: the key is on top (with the value above it if that is next); `lua_next` gets a key that
        // it gave out, and nothing is assigned to the table meanwhile.
        unsafe {
            let mut value_next = value_next;
            if meta == Meta::Written {
                self.out.patch_counts(at, array, pairs);
                self.close();
                return Ok(());
            }
            loop {
                if !value_next {
                    if lua::lua_next(state, slot) == 0 {
                        break;
                    }
                    if in_array {
                        let holes = self.array_step(array);
                        in_array = holes.is_some();
                        for _ in 0..holes.unwrap_or(0) {
                            self.wrote_tag(tag::NIL)?;
                            array += 1;
                        }
                    }
                    if in_array {
                        array += 1;
                    } else {
                        pairs = pairs.checked_add(1).ok_or(()).or_else(|()| self.memory())?;
                        if !self.key()? {
                            // The key is a container: a copy of it is written first.
                            self.set(Kind::Table { at, array, pairs, in_array, value_next: true, meta });
                            lua::lua_pushvalue(state, -2);
                            return self.value_on_top_of_frame();
                        }
                    }
                }
                value_next = false;
                if !self.scalar(lua::lua_gettop(state))? {
                    self.set(Kind::Table { at, array, pairs, in_array, value_next: false, meta });
                    return self.value_on_top_of_frame();
                }
                lua::lua_pop(state, 1);
            }
            if meta == Meta::Due {
                meta = Meta::Written;
                self.set(Kind::Table { at, array, pairs, in_array, value_next: false, meta });
                lua::lua_getmetatable(state, slot);
                return self.value_on_top_of_frame();
            }
            self.out.patch_counts(at, array, pairs);
            self.close();
        }
        Ok(())
    }

    /// With key and value on top: how many holes lie before this key if it continues the array, whose
    /// length so far is `array`. A few holes are bridged with nils, as they were in the table's own array.
    unsafe fn array_step(&mut self, array: u32) -> Option<u32> {
        // SAFETY: reads the key, a number by its type.
        unsafe {
            if lua::lua_type(self.state, -2) != lua::LUA_TNUMBER {
                return None;
            }
            let key = lua::lua_tonumber(self.state, -2);
            let next = f64::from(array) + 1.0;
            let limit = next + f64::from(array.min(1 << 20)) + 4.0;
            (key >= next && key <= limit && key.fract() == 0.0).then_some((key - next) as u32)
        }
    }

    /// Writes the key, below the value on top; `false` if it is a container.
    unsafe fn key(&mut self) -> Result<bool, Stop> {
        // SAFETY: the key is there; its bytes stay valid while it is on the stack.
        unsafe {
            let index = lua::lua_gettop(self.state) - 1;
            if lua::lua_type(self.state, index) != lua::LUA_TSTRING {
                return self.scalar(index);
            }
            let bytes = lua::bytes_at(self.state, index);
            let keys = &mut self.encoder.keys;
            let address = bytes.as_ptr();
            let slot = (address as usize >> 4).wrapping_mul(0x9e37_79b9) >> 7 & 0xff;
            let cached = &mut keys.slots[slot];
            let written = if cached.1 > 0 && cached.0 == address {
                self.out.byte(tag::KEY_REF).and_then(|()| self.out.byte(cached.1 - 1))
            } else if keys.count < MAX_KEYS && bytes.len() <= 64 {
                keys.used[keys.count] = slot as u8;
                keys.count += 1;
                *cached = (address, keys.count as u8);
                self.out.string(tag::KEY_DEF, bytes)
            } else {
                self.out.string(tag::STR, bytes)
            };
            self.wrote(written)?;
        }
        Ok(true)
    }

    /// Writes the value at `index` unless it is a container: then `false`.
    #[inline]
    unsafe fn scalar(&mut self, index: c_int) -> Result<bool, Stop> {
        let state = self.state;
        // SAFETY: reads a value of the type that was asked for.
        let written = unsafe {
            match lua::lua_type(state, index) {
                lua::LUA_TSTRING => self.out.string(tag::STR, lua::bytes_at(state, index)),
                lua::LUA_TNUMBER if lua::is_integer(state, index) => {
                    self.out.integer(tag::INT, lua::lua_tointeger(state, index) as i64)
                }
                lua::LUA_TNUMBER => self.out.fixed(tag::FLOAT, lua::lua_tonumber(state, index).to_le_bytes()),
                lua::LUA_TBOOLEAN if lua::lua_toboolean(state, index) != 0 => self.out.byte(tag::TRUE),
                lua::LUA_TBOOLEAN => self.out.byte(tag::FALSE),
                lua::LUA_TNIL => self.out.byte(tag::NIL),
                lua::LUA_TLIGHTUSERDATA => {
                    let address = lua::lua_touserdata(state, index) as u64;
                    self.out.fixed(tag::POINTER, address.to_le_bytes())
                }
                _ => return Ok(false),
            }
        };
        self.wrote(written)?;
        Ok(true)
    }

    /// Writes the value on top, which is one too many for the innermost frame if it needs no frame itself.
    unsafe fn value_on_top_of_frame(&mut self) -> Step {
        // SAFETY: the value is on top.
        unsafe { self.value(lua::lua_gettop(self.state)) }
    }

    /// Writes the value at `index`, the top, and takes it off; or opens a frame that will.
    unsafe fn value(&mut self, index: c_int) -> Step {
        // SAFETY: the index is the top of the stack.
        unsafe {
            if index + 8 > self.room {
                if lua::lua_checkstack(self.state, 40) == 0 {
                    return self.memory();
                }
                self.room = index + 36;
            }
            let opened = match lua::lua_type(self.state, index) {
                lua::LUA_TTABLE => self.open_table(index)?,
                lua::LUA_TFUNCTION => self.open_function(index)?,
                _ if self.scalar(index)? => false,
                _ => self.foreign(index)?,
            };
            if !opened {
                lua::lua_pop(self.state, 1);
            }
        }
        Ok(())
    }

    /// Names a container that was met before.
    fn again(&mut self, address: *const c_void) -> Result<bool, Stop> {
        let Some(&at) = self.encoder.seen.get(&address) else { return Ok(false) };
        self.out.patch(at, self.out.at(at) | tag::SHARED);
        let written = self.out.byte(tag::REF).and_then(|()| self.out.varint(at as u64));
        self.wrote(written)?;
        Ok(true)
    }

    /// Makes sure that all modules that are loaded now have their names. If any is new, a table that was
    /// written already may be one: then the packet is begun again.
    unsafe fn update_names(&mut self) -> Step {
        if self.names_current {
            return Ok(());
        }
        self.names_current = true;
        // SAFETY: there is room for the scan.
        let changed = unsafe { (*self.transfer).names.refresh(self.state) };
        if changed && self.wrote_table { self.again_from_start() } else { Ok(()) }
    }

    fn again_from_start(&mut self) -> Step {
        self.restart = true;
        Err(Stop)
    }

    /// Writes a value by its name, if it has one; see [`Names`](super::names::Names) for `data`.
    unsafe fn by_name(&mut self, index: c_int, data: bool) -> Result<bool, Stop> {
        // SAFETY: the name stays on the stack while it is written.
        unsafe {
            if !(*self.transfer).names.push_name(self.state, index, data) {
                return Ok(false);
            }
            let written = self.out.string(tag::NAME, lua::bytes_at(self.state, -1));
            lua::lua_pop(self.state, 1);
            self.wrote(written)?;
        }
        Ok(true)
    }

    /// Remembers a container whose tag comes next.
    fn see(&mut self, address: *const c_void) -> Step {
        if self.encoder.seen.try_reserve(1).is_err() {
            return self.memory();
        }
        self.encoder.seen.insert(address, self.out.position());
        Ok(())
    }

    /// Puts the body of the container at `index` off until after the roots.
    unsafe fn put_off(&mut self, index: c_int) {
        // SAFETY: one more value in a table of ours; a memory error loses nothing.
        unsafe {
            if self.later_count == 0 {
                lua::lua_createtable(self.state, 8, 0);
                lua::lua_replace(self.state, self.later);
            }
            self.later_count += 1;
            lua::lua_pushvalue(self.state, index);
            lua::lua_rawseti(self.state, self.later, self.later_count);
        }
    }

    /// `true` if a frame was opened for it.
    unsafe fn open_table(&mut self, index: c_int) -> Result<bool, Stop> {
        let state = self.state;
        // SAFETY: a table is at the index, the top.
        unsafe {
            let address = lua::lua_topointer(state, index);
            if address == (*self.transfer).globals {
                self.wrote_tag(tag::GLOBALS)?;
                return Ok(false);
            }
            if self.again(address)? {
                return Ok(false);
            }
            let captured = self.in_function();
            let has_meta = lua::lua_getmetatable(state, index) != 0;
            if has_meta {
                lua::lua_pop(state, 1);
            }
            if has_meta {
                self.stop_collector();
            }
            if captured || has_meta {
                self.update_names()?;
            }
            if self.by_name(index, captured)? {
                return Ok(false);
            }
            self.wrote_table = true;
            self.see(address)?;
            let meta = if has_meta { self.meta(index)? } else { Meta::None };
            let kind = tag::TABLE | if meta == Meta::Due { tag::META } else { 0 };
            if self.encoder.frames.len() >= MAX_DEPTH {
                self.wrote_tag(kind | tag::LATER)?;
                self.put_off(index);
                return Ok(false);
            }
            self.wrote_tag(kind)?;
            self.table_frame(index, meta)?;
        }
        Ok(true)
    }

    unsafe fn table_frame(&mut self, slot: c_int, meta: Meta) -> Step {
        let at = self.out.position();
        let written = self.out.counts();
        self.wrote(written)?;
        // SAFETY: room for a key and a value was made sure of.
        unsafe { lua::lua_pushnil(self.state) };
        let kind = Kind::Table { at, array: 0, pairs: 0, in_array: true, value_next: false, meta };
        self.encoder.frames.push(Frame { slot, kind });
        Ok(())
    }

    /// Containers are known by their address, and nothing else need hold one that was reached through a weak
    /// table: from the first metatable on nothing may be collected until the packet is written.
    unsafe fn stop_collector(&mut self) {
        // SAFETY: neither call raises. PUC 5.1 does not say whether its collector runs, and answers -1.
        unsafe {
            if !*self.collector_stopped && lua::lua_gc(self.state, lua::GC_IS_RUNNING, 0) == 1 {
                lua::lua_gc(self.state, lua::LUA_GCSTOP, 0);
                *self.collector_stopped = true;
            }
        }
    }

    /// What is to be done about the metatable of the table on top, which has one.
    unsafe fn meta(&mut self, index: c_int) -> Result<Meta, Stop> {
        // SAFETY: balanced.
        unsafe {
            lua::lua_getmetatable(self.state, index);
            lua::lua_pushliteral(self.state, c"__gc");
            lua::lua_rawget(self.state, -2);
            let finalized = !lua::HAS_FENV && lua::lua_isnil(self.state, -1) == 0;
            lua::lua_pop(self.state, 2);
            if finalized {
                // A copy would finalize one resource twice.
                return self.refuse("a table with a __gc metamethod cannot be sent");
            }
        }
        Ok(Meta::Due)
    }

    /// `true` if a frame was opened for it.
    unsafe fn open_function(&mut self, index: c_int) -> Result<bool, Stop> {
        let state = self.state;
        // SAFETY: a function is at the index, the top.
        unsafe {
            let address = lua::lua_topointer(state, index);
            if self.again(address)? {
                return Ok(false);
            }
            let in_table = self.wrote_table && !self.in_function();
            let native = lua::lua_iscfunction(state, index) != 0;
            if native || in_table || !(*self.transfer).sent.knows(state, index) {
                self.update_names()?;
                if self.by_name(index, true)? {
                    return Ok(false);
                }
                if native {
                    return self.foreign(index);
                }
            }
            let code = match Sent::code(&raw mut (*self.transfer).sent, state, index) {
                Ok(code) => code,
                Err(NoCode::Memory) => return self.memory(),
                Err(NoCode::Refused) => return self.refuse("this function cannot be sent"),
            };
            let (count, handle) = (c_int::from(code.upvalues), self.handles.len());
            if self.handles.try_reserve(1).is_err() {
                return self.memory();
            }
            self.handles.push(Handle::Code(code));
            self.see(address)?;
            let put_off = self.encoder.frames.len() >= MAX_DEPTH;
            self.wrote_tag(if put_off { tag::FUNCTION | tag::LATER } else { tag::FUNCTION })?;
            let written = self.out.varint(handle as u64);
            self.wrote(written)?;
            if put_off {
                self.put_off(index);
                return Ok(false);
            }
            self.encoder.frames.push(Frame { slot: index, kind: Kind::Function { next: 1, count } });
        }
        Ok(true)
    }

    /// Goes on with the cells of a function.
    unsafe fn function(&mut self, slot: c_int, next: c_int, count: c_int) -> Step {
        let state = self.state;
        // SAFETY: a Lua function with `count` upvalues is at the slot, the top.
        unsafe {
            for n in next..=count {
                if (*self.transfer).flavor.cells {
                    let cell = lua::upvalue_id(state, slot, n);
                    if let Some(&at) = self.encoder.seen.get(&cell) {
                        self.out.patch(at, tag::CELL_SHARED);
                        let written = self.out.byte(tag::CELL_REF).and_then(|()| self.out.varint(at as u64));
                        self.wrote(written)?;
                        continue;
                    }
                    self.see(cell)?;
                }
                self.wrote_tag(tag::CELL)?;
                self.set(Kind::Function { next: n + 1, count });
                lua::lua_getupvalue(state, slot, n);
                if !self.scalar(slot + 1)? {
                    return self.value(slot + 1);
                }
                lua::lua_pop(state, 1);
            }
            if lua::HAS_FENV && next <= count + 1 {
                self.set(Kind::Function { next: count + 2, count });
                lua::push_fenv(state, slot);
                return self.value(slot + 1);
            }
            self.close();
        }
        Ok(())
    }

    /// Opens a frame for the next body that was put off.
    unsafe fn next_later(&mut self, slot: c_int, next: lua::lua_Integer) -> Step {
        // SAFETY: the table of later containers is at the slot, the top.
        unsafe {
            if next > self.later_count {
                self.close();
                return Ok(());
            }
            self.set(Kind::Later { next: next + 1 });
            lua::lua_rawgeti(self.state, slot, next);
            // What is written needs no anchor any more.
            lua::lua_pushnil(self.state);
            lua::lua_rawseti(self.state, slot, next);
            if lua::lua_istable(self.state, slot + 1) != 0 {
                let meta = if lua::lua_getmetatable(self.state, slot + 1) != 0 {
                    lua::lua_pop(self.state, 1);
                    Meta::Due
                } else {
                    Meta::None
                };
                return self.table_frame(slot + 1, meta);
            }
            let code = Sent::code(&raw mut (*self.transfer).sent, self.state, slot + 1);
            let count = code.map(|code| c_int::from(code.upvalues));
            match count {
                Ok(count) => self
                    .encoder
                    .frames
                    .push(Frame { slot: slot + 1, kind: Kind::Function { next: 1, count } }),
                Err(_) => return self.memory(),
            }
        }
        Ok(())
    }

    /// A value that travels only by name, or not at all.
    unsafe fn foreign(&mut self, index: c_int) -> Result<bool, Stop> {
        // SAFETY: reads the value at the index, the top.
        unsafe {
            let kind = lua::lua_type(self.state, index);
            if kind == lua::LUA_TUSERDATA || kind == lua::LUA_TFUNCTION {
                self.update_names()?;
                if self.by_name(index, true)? {
                    return Ok(false);
                }
                // A module may have got it after the last scan.
                (*self.transfer).names.scan(self.state);
                if self.by_name(index, true)? {
                    return Ok(false);
                }
            }
            self.refuse(match kind {
                lua::LUA_TFUNCTION => "C function cannot be sent",
                lua::LUA_TUSERDATA => "userdata cannot be sent",
                lua::LUA_TTHREAD => "coroutine cannot be sent",
                _ => "cdata cannot be sent",
            })
        }
    }

    /// Whether the value that is being written is an upvalue.
    fn in_function(&self) -> bool {
        matches!(self.encoder.frames.last(), Some(Frame { kind: Kind::Function { .. }, .. }))
    }

    fn wrote(&mut self, written: Result<(), OutOfMemory>) -> Step {
        match written {
            Ok(()) => Ok(()),
            Err(OutOfMemory) => self.memory(),
        }
    }

    fn wrote_tag(&mut self, tag: u8) -> Step {
        let written = self.out.byte(tag);
        self.wrote(written)
    }

    #[cold]
    fn memory<T>(&mut self) -> Result<T, Stop> {
        self.encoder.failure = Some(Error::new(Code::Memory, "there is no memory for the packet"));
        Err(Stop)
    }

    /// Stops with a message that names the path to the value that is being written.
    #[cold]
    fn refuse<T>(&mut self, what: &str) -> Result<T, Stop> {
        let mut steps = vec![self.kind.name(self.encoder.root)];
        for frame in &self.encoder.frames {
            // SAFETY: reads keys that are on the stack; nothing here raises.
            unsafe {
                match frame.kind {
                    Kind::Table { meta: Meta::Written, .. } => steps.push("metatable".into()),
                    Kind::Table { value_next: true, .. } => steps.push("a key".into()),
                    Kind::Table { .. } => steps.push(key_step(self.state, frame.slot + 1)),
                    Kind::Function { next, count } if next > count + 1 => steps.push("environment".into()),
                    Kind::Function { next, .. } => steps.push(upvalue_step(self.state, frame.slot, next - 1)),
                    Kind::Later { .. } => steps = vec!["…".into()],
                }
            }
        }
        self.encoder.failure = Some(Error::new(Code::Transfer, path::message(&steps, what)));
        Err(Stop)
    }
}

/// How a table key reads in a path.
unsafe fn key_step(state: *mut lua_State, index: c_int) -> String {
    // SAFETY: reads a value of the type that was asked for.
    unsafe {
        match lua::lua_type(state, index) {
            lua::LUA_TSTRING => path::field(lua::bytes_at(state, index)),
            lua::LUA_TNUMBER => format!("[{}]", lua::lua_tonumber(state, index)),
            lua::LUA_TBOOLEAN => format!("[{}]", lua::lua_toboolean(state, index) != 0),
            _ => "[…]".to_string(),
        }
    }
}

unsafe fn upvalue_step(state: *mut lua_State, function: c_int, n: c_int) -> String {
    // SAFETY: pushes the upvalue, which is there, and pops it; its name is a terminated string.
    unsafe {
        let name = lua::lua_getupvalue(state, function, n);
        if name.is_null() {
            return format!("upvalue {n}");
        }
        let step = format!("upvalue '{}'", std::ffi::CStr::from_ptr(name).to_string_lossy());
        lua::lua_pop(state, 1);
        step
    }
}

//! A packet into Lua values: the mirror of `encode`.
//!
//! The same loop over an explicit stack of frames. Containers that are referred to later are anchored in a
//! Lua table, and found by the offset of their tag. Metatables are attached when the whole graph is built,
//! so that no metamethod sees a part of it.
//!
//! The bytes are not trusted: whatever they say, the outcome is values or an error. Every length and
//! count is checked against what is left, and code comes only from handles.

use std::collections::{HashMap, VecDeque};
use std::ffi::{c_int, c_void};

use super::Transfer;
use super::functions::{Loaded, Pushed, Use};
use super::names::NO_MEMORY;
use crate::codec::wire::{self, MAX_DEPTH, MAX_KEYS, Malformed, Reader, tag};
use crate::codec::{Handle, Packet};
use crate::error::{Code, Error};
use crate::lua::{self, lua_Integer, lua_State};

/// One protected call: what the C function works on. Lives on the frame of [`Transfer::decode`].
pub struct Job<'a> {
    pub transfer: *mut Transfer,
    pub decoder: &'a mut Decoder,
    pub packet: &'a Packet,
    /// Whether the first value is the function of a task.
    pub task: bool,
    /// From [`Loaded::begin_packet`].
    pub number: u64,
    /// The code of the task's function if that is to be given back.
    pub borrowed: Option<u64>,
    /// Set when all values are pushed.
    pub done: bool,
}

/// Scratch memory, used again by the next decode.
#[derive(Default)]
pub struct Decoder {
    frames: Vec<Frame>,
    /// What was marked as shared, by the offset of its tag.
    shared: HashMap<usize, Anchor>,
    /// Bodies that come after the roots.
    later: VecDeque<Later>,
    failure: Option<Error>,
}

#[derive(Clone, Copy)]
enum Anchor {
    /// The index in the table of anchors.
    Container(lua_Integer),
    /// The function's index there, and the upvalue.
    Cell(lua_Integer, c_int),
}

#[derive(Clone, Copy)]
struct Later {
    anchor: lua_Integer,
    kind: LaterKind,
}

#[derive(Clone, Copy)]
enum LaterKind {
    Table { meta: bool },
    Function { count: c_int },
}

/// A container that is being filled; it is at `slot` on the Lua stack.
#[derive(Clone, Copy)]
struct Frame {
    slot: c_int,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// The next values go to `next` and on.
    Array { next: u32, array: u32, pairs: u32, meta: bool },
    /// `left` pairs; with `value_next` a key is on the stack.
    Pairs { left: u32, value_next: bool, meta: bool },
    /// The value to come is the metatable.
    Meta,
    /// Cells from `next`, from 1; past the last, where functions have one, the environment.
    Function { next: c_int, count: c_int, anchor: Option<lua_Integer> },
}

impl Decoder {
    /// Makes ready for the next use; keeps scratch that is not large.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.later.clear();
        self.later.shrink_to(1024);
        if self.shared.capacity() > 1024 {
            self.shared = HashMap::new();
        } else {
            self.shared.clear();
        }
        self.failure = None;
    }

    /// Why the last decode failed.
    pub fn take_failure(&mut self) -> Error {
        self.failure.take().unwrap_or_else(|| Error::new(Code::Transfer, "decoding failed"))
    }
}

/// Stops the decode; the reason is in `Decoder::failure`.
struct Stop;

type Step = Result<(), Stop>;

/// Fixed places in the C function's frame; the key strings follow, then the roots.
const JOB: c_int = 1;
const ANCHORS: c_int = 2;
const METATABLES: c_int = 3;
const KEYS: c_int = 3;

/// The C function: takes the job, returns the values.
pub unsafe extern "C-unwind" fn entry(state: *mut lua_State) -> c_int {
    // SAFETY: `Transfer::decode` passes a pointer to a job that outlives this call. The build owns nothing,
    // so errors that Lua raises through it leak nothing.
    unsafe {
        let job = &mut *lua::lua_touserdata(state, JOB).cast::<Job>();
        let mut build = Build {
            state,
            transfer: job.transfer,
            from: Reader::new(&job.packet.bytes),
            handles: &job.packet.handles,
            decoder: job.decoder,
            task: job.task,
            number: job.number,
            borrowed: &mut job.borrowed,
            budget: job.packet.bytes.len() as u64,
            functions: 0,
            keys: 0,
            defined: 0,
            anchors: 0,
            metatables: 0,
            room: 0,
        };
        match build.all() {
            Ok(count) => {
                job.done = true;
                count
            }
            Err(Stop) => 0,
        }
    }
}

struct Build<'a> {
    state: *mut lua_State,
    /// Raw: finalizers and modules that run meanwhile may use it too.
    transfer: *mut Transfer,
    from: Reader<'a>,
    handles: &'a [Handle],
    decoder: &'a mut Decoder,
    task: bool,
    number: u64,
    borrowed: &'a mut Option<u64>,
    /// Bytes of the packet that no count has promised to anything yet.
    budget: u64,
    /// Functions met so far.
    functions: u64,
    /// Key strings that the packet announced, and those met so far.
    keys: c_int,
    defined: c_int,
    /// Lengths of the tables at `ANCHORS` and `METATABLES`.
    anchors: lua_Integer,
    metatables: lua_Integer,
    /// The stack index up to which there is certainly room.
    room: c_int,
}

/// What came of reading one value.
#[derive(PartialEq, Eq)]
enum Value {
    /// It is on the stack.
    Whole,
    /// It is on the stack, and a frame is open to fill it.
    Opened,
}

impl Build<'_> {
    /// The whole packet; returns the number of roots, which are then on top.
    unsafe fn all(&mut self) -> Result<c_int, Stop> {
        let (keys, roots) = self.header()?;
        // SAFETY: the fixed places are filled first.
        unsafe {
            lua::lua_settop(self.state, KEYS);
            self.make_room(keys + 8)?;
            self.keys = keys;
            lua::lua_settop(self.state, KEYS + keys);
            for root in 0..roots {
                self.make_room(10)?;
                let first = root == 0 && self.task;
                if self.value(first)? == Value::Opened {
                    self.drain()?;
                }
            }
            while let Some(later) = self.decoder.later.pop_front() {
                self.open_later(later)?;
                self.drain()?;
                lua::lua_pop(self.state, 1);
            }
            self.attach_metatables();
        }
        if self.from.left() > 0 { self.malformed() } else { Ok(roots) }
    }

    fn header(&mut self) -> Result<(c_int, c_int), Stop> {
        let mut read = || -> Result<(c_int, c_int), Malformed> {
            let (version, keys, roots) = (self.from.byte()?, self.from.byte()?, self.from.varint()?);
            let fits = version == wire::VERSION
                && usize::from(keys) <= MAX_KEYS
                && roots <= self.from.left() as u64
                && roots <= 1 << 24;
            if fits { Ok((c_int::from(keys), roots as c_int)) } else { Err(Malformed) }
        };
        let header = read();
        self.read(header)
    }

    /// Makes sure of `count` free stack slots.
    unsafe fn make_room(&mut self, count: c_int) -> Step {
        // SAFETY: a memory error of 5.1 loses nothing.
        unsafe {
            let top = lua::lua_gettop(self.state);
            if top + count > self.room {
                if lua::lua_checkstack(self.state, count + 32) == 0 {
                    return self.fail(Code::Memory, "the Lua stack is full");
                }
                self.room = top + count + 32;
            }
        }
        Ok(())
    }

    /// Works until no frame is open; the outermost container is left on the stack.
    unsafe fn drain(&mut self) -> Step {
        while let Some(frame) = self.decoder.frames.last().copied() {
            // SAFETY: the frame's container is at its slot.
            let value = unsafe {
                match frame.kind {
                    Kind::Array { .. } => self.array(frame)?,
                    Kind::Pairs { .. } => self.pairs(frame)?,
                    Kind::Meta => self.meta_value()?,
                    Kind::Function { .. } => self.cells(frame)?,
                }
            };
            if value == Value::Whole {
                // The container of this frame is whole: a value for the frame around it.
                self.decoder.frames.pop();
                // SAFETY: it is on top.
                unsafe { self.store()? };
            }
        }
        Ok(())
    }

    fn set(&mut self, kind: Kind) {
        if let Some(frame) = self.decoder.frames.last_mut() {
            frame.kind = kind;
        }
    }

    /// Puts the container on top where the innermost frame wants it. Without a frame it is a root.
    unsafe fn store(&mut self) -> Step {
        let Some(frame) = self.decoder.frames.last().copied() else { return Ok(()) };
        let state = self.state;
        // SAFETY: the container of the frame is at its slot, with the key above it where there is one.
        unsafe {
            match frame.kind {
                Kind::Array { next, array, pairs, meta } => {
                    lua::lua_rawseti(state, frame.slot, lua_Integer::from(next as i32));
                    self.set(Kind::Array { next: next + 1, array, pairs, meta });
                }
                Kind::Pairs { left, value_next: false, meta } => {
                    self.set(Kind::Pairs { left, value_next: true, meta });
                }
                Kind::Pairs { left, value_next: true, meta } => {
                    lua::lua_rawset(state, frame.slot);
                    self.set(Kind::Pairs { left: left - 1, value_next: false, meta });
                }
                Kind::Meta => self.note_metatable(frame.slot)?,
                Kind::Function { next, count, anchor } => {
                    self.set_cell(frame.slot, next, count)?;
                    self.set(Kind::Function { next: next + 1, count, anchor });
                }
            }
        }
        Ok(())
    }

    unsafe fn array(&mut self, frame: Frame) -> Result<Value, Stop> {
        let Kind::Array { mut next, array, pairs, meta } = frame.kind else { return Ok(Value::Whole) };
        while next <= array {
            // SAFETY: the table is at the slot.
            unsafe {
                if self.value(false)? == Value::Opened {
                    if let Some(frame) = self.decoder.frames.iter_mut().nth_back(1) {
                        frame.kind = Kind::Array { next, array, pairs, meta };
                    }
                    return Ok(Value::Opened);
                }
                lua::lua_rawseti(self.state, frame.slot, lua_Integer::from(next as i32));
            }
            next += 1;
        }
        self.set(Kind::Pairs { left: pairs, value_next: false, meta });
        Ok(Value::Opened)
    }

    unsafe fn pairs(&mut self, frame: Frame) -> Result<Value, Stop> {
        let Kind::Pairs { mut left, mut value_next, meta } = frame.kind else { return Ok(Value::Whole) };
        while left > 0 {
            // SAFETY: the table is at the slot, the key above it if the value is next.
            unsafe {
                if self.value(false)? == Value::Opened {
                    if let Some(frame) = self.decoder.frames.iter_mut().nth_back(1) {
                        frame.kind = Kind::Pairs { left, value_next, meta };
                    }
                    return Ok(Value::Opened);
                }
                if value_next {
                    lua::lua_rawset(self.state, frame.slot);
                    left -= 1;
                } else if !self.is_key() {
                    return self.malformed();
                }
                value_next = !value_next;
            }
        }
        if meta {
            self.set(Kind::Meta);
            return Ok(Value::Opened);
        }
        Ok(Value::Whole)
    }

    /// Whether the value on top may be a key: neither nil nor NaN.
    unsafe fn is_key(&self) -> bool {
        // SAFETY: reads the value on top.
        unsafe {
            match lua::lua_type(self.state, -1) {
                lua::LUA_TNIL => false,
                lua::LUA_TNUMBER => !lua::lua_tonumber(self.state, -1).is_nan(),
                _ => true,
            }
        }
    }

    unsafe fn meta_value(&mut self) -> Result<Value, Stop> {
        // SAFETY: the table is at the slot of the innermost frame.
        unsafe {
            if self.value(false)? == Value::Opened {
                return Ok(Value::Opened);
            }
            let slot = self.decoder.frames.last().map_or(1, |frame| frame.slot);
            self.note_metatable(slot)?;
        }
        Ok(Value::Whole)
    }

    /// Takes the metatable off the top and notes it for the table at `slot`.
    unsafe fn note_metatable(&mut self, slot: c_int) -> Step {
        let state = self.state;
        // SAFETY: two values in a table of ours, one after the other.
        unsafe {
            if lua::lua_istable(state, -1) == 0 {
                return self.malformed();
            }
            if self.metatables == 0 {
                lua::lua_createtable(state, 8, 0);
                lua::lua_replace(state, METATABLES);
            }
            lua::lua_pushvalue(state, slot);
            lua::lua_rawseti(state, METATABLES, self.metatables + 1);
            lua::lua_rawseti(state, METATABLES, self.metatables + 2);
            self.metatables += 2;
            // The table is whole now: an empty rest makes the frame end.
            self.set(Kind::Pairs { left: 0, value_next: false, meta: false });
        }
        Ok(())
    }

    unsafe fn attach_metatables(&mut self) {
        // SAFETY: the table holds pairs of tables.
        unsafe {
            for n in (1..self.metatables).step_by(2) {
                lua::lua_rawgeti(self.state, METATABLES, n);
                lua::lua_rawgeti(self.state, METATABLES, n + 1);
                lua::lua_setmetatable(self.state, -2);
                lua::lua_pop(self.state, 1);
            }
        }
    }

    /// Fills cells until the function is whole or a value for one has to be built first.
    unsafe fn cells(&mut self, frame: Frame) -> Result<Value, Stop> {
        let Kind::Function { mut next, count, mut anchor } = frame.kind else { return Ok(Value::Whole) };
        let last = if lua::HAS_FENV { count + 1 } else { count };
        while next <= last {
            // SAFETY: the function is at the slot.
            unsafe {
                if next <= count {
                    let at = self.from.position();
                    let kind = self.byte()?;
                    match kind {
                        tag::CELL => {}
                        tag::CELL_SHARED => {
                            let index = match anchor {
                                Some(index) => index,
                                None => self.anchor(frame.slot)?,
                            };
                            anchor = Some(index);
                            self.share(at, Anchor::Cell(index, next))?;
                        }
                        tag::CELL_REF => {
                            self.join(frame.slot, next)?;
                            next += 1;
                            continue;
                        }
                        _ => return self.malformed(),
                    }
                }
                self.set(Kind::Function { next, count, anchor });
                if self.value(false)? == Value::Opened {
                    return Ok(Value::Opened);
                }
                self.set_cell(frame.slot, next, count)?;
            }
            next += 1;
        }
        Ok(Value::Whole)
    }

    /// Takes the value on top into a cell, or as the environment.
    unsafe fn set_cell(&mut self, slot: c_int, n: c_int, count: c_int) -> Step {
        // SAFETY: a Lua function with `count` upvalues is at the slot.
        unsafe {
            if n <= count {
                if lua::lua_setupvalue(self.state, slot, n).is_null() {
                    return self.malformed();
                }
            } else if lua::lua_istable(self.state, -1) != 0 {
                lua::pop_fenv(self.state, slot);
            } else {
                return self.malformed();
            }
        }
        Ok(())
    }

    /// Joins cell `n` of the function at `slot` with one that was met before.
    unsafe fn join(&mut self, slot: c_int, n: c_int) -> Step {
        let at = self.varint()?;
        let Some(Anchor::Cell(function, m)) = self.decoder.shared.get(&(at as usize)).copied() else {
            return self.malformed();
        };
        // SAFETY: a plain read.
        if unsafe { !(*self.transfer).flavor.cells } {
            return self.malformed();
        }
        // SAFETY: both are Lua functions that have these upvalues: `m` and `n` were counted off them.
        unsafe {
            lua::lua_rawgeti(self.state, ANCHORS, function);
            lua::upvalue_join(self.state, slot, n, -1, m);
            lua::lua_pop(self.state, 1);
        }
        Ok(())
    }

    /// Anchors the container at `slot`; returns its index.
    unsafe fn anchor(&mut self, slot: c_int) -> Result<lua_Integer, Stop> {
        // SAFETY: one more value in a table of ours.
        unsafe {
            if self.anchors == 0 {
                lua::lua_createtable(self.state, 8, 0);
                lua::lua_replace(self.state, ANCHORS);
            }
            self.anchors += 1;
            lua::lua_pushvalue(self.state, slot);
            lua::lua_rawseti(self.state, ANCHORS, self.anchors);
        }
        Ok(self.anchors)
    }

    fn share(&mut self, at: usize, anchor: Anchor) -> Step {
        if self.decoder.shared.try_reserve(1).is_err() {
            return self.fail(Code::Memory, "there is no memory to decode the packet");
        }
        self.decoder.shared.insert(at, anchor);
        Ok(())
    }

    /// Reads one value and pushes it. `sole` where it is the function of a task.
    #[inline]
    unsafe fn value(&mut self, sole: bool) -> Result<Value, Stop> {
        let at = self.from.position();
        let kind = self.byte()?;
        let state = self.state;
        // SAFETY: every branch pushes one value, for which there is room: frames and roots make more.
        unsafe {
            match kind {
                tag::NIL => lua::lua_pushnil(state),
                tag::FALSE => lua::lua_pushboolean(state, 0),
                tag::TRUE => lua::lua_pushboolean(state, 1),
                tag::INT => {
                    let n = self.from.integer();
                    let n = self.read(n)?;
                    match lua_Integer::try_from(n) {
                        Ok(n) => lua::lua_pushinteger(state, n),
                        Err(_) => lua::lua_pushnumber(state, n as f64),
                    }
                }
                tag::FLOAT => {
                    let bytes = self.from.fixed();
                    lua::lua_pushnumber(state, f64::from_le_bytes(self.read(bytes)?));
                }
                tag::STR => {
                    let bytes = self.from.string();
                    lua::push_bytes(state, self.read(bytes)?)
                }
                tag::KEY_DEF => self.define_key()?,
                tag::KEY_REF => {
                    let index = c_int::from(self.byte()?) + 1;
                    if index > self.defined {
                        return self.malformed();
                    }
                    lua::lua_pushvalue(state, KEYS + index);
                }
                tag::POINTER => {
                    let bytes = self.from.fixed();
                    lua::lua_pushlightuserdata(state, u64::from_le_bytes(self.read(bytes)?) as *mut c_void);
                }
                tag::REF => {
                    let offset = self.varint()? as usize;
                    let Some(Anchor::Container(index)) = self.decoder.shared.get(&offset).copied() else {
                        return self.malformed();
                    };
                    self.make_room(8)?;
                    let _ = lua::lua_rawgeti(state, ANCHORS, index);
                }
                tag::GLOBALS => {
                    lua::lua_pushglobaltable(state);
                }
                tag::NAME => {
                    let name = self.from.string();
                    let name = self.read(name)?;
                    self.make_room(12)?;
                    if !(*self.transfer).names.tables().push_value(state, name) {
                        return self.no_such_name();
                    }
                }
                _ => return self.container(at, kind, sole),
            }
        }
        Ok(Value::Whole)
    }

    /// A key string that takes the next index.
    unsafe fn define_key(&mut self) -> Step {
        let bytes = self.from.string();
        let bytes = self.read(bytes)?;
        if self.defined == self.keys {
            return self.malformed();
        }
        self.defined += 1;
        // SAFETY: the places for keys were made at the start.
        unsafe {
            lua::push_bytes(self.state, bytes);
            lua::lua_pushvalue(self.state, -1);
            lua::lua_replace(self.state, KEYS + self.defined);
        }
        Ok(())
    }

    /// A tag that is none of the simple ones.
    unsafe fn container(&mut self, at: usize, kind: u8, sole: bool) -> Result<Value, Stop> {
        // SAFETY: one value is pushed, after room for it and its frame was made.
        unsafe {
            self.make_room(10)?;
            match kind & !(tag::SHARED | tag::LATER | tag::META) {
                tag::TABLE => self.open_table(at, kind),
                tag::FUNCTION if kind & tag::META == 0 => self.open_function(at, kind, sole),
                _ => self.malformed(),
            }
        }
    }

    /// Opens a frame for the container on top.
    fn open(&mut self, kind: Kind) -> Result<Value, Stop> {
        if self.decoder.frames.len() >= MAX_DEPTH {
            return self.malformed();
        }
        // SAFETY: a plain read.
        let slot = unsafe { lua::lua_gettop(self.state) };
        self.decoder.frames.push(Frame { slot, kind });
        Ok(Value::Opened)
    }

    fn counts(&mut self, meta: bool) -> Result<(Kind, u32, u32), Stop> {
        let counts = self.from.counts();
        let (array, pairs) = self.read(counts)?;
        self.spend(u64::from(array) + 2 * u64::from(pairs))?;
        Ok((Kind::Array { next: 1, array, pairs, meta }, array, pairs))
    }

    /// Counts and promises cost bytes, here or later: in all, no more than the packet has. So what forged
    /// ones make the state allocate stays in proportion.
    fn spend(&mut self, bytes: u64) -> Step {
        match self.budget.checked_sub(bytes) {
            Some(left) => self.budget = left,
            None => return self.malformed(),
        }
        Ok(())
    }

    unsafe fn open_table(&mut self, at: usize, kind: u8) -> Result<Value, Stop> {
        let meta = kind & tag::META != 0;
        // SAFETY: pushes the table.
        unsafe {
            if kind & tag::LATER != 0 {
                self.spend(8)?; // the counts of its body
                lua::lua_createtable(self.state, 0, 0);
                return self.put_off(at, LaterKind::Table { meta });
            }
            let (body, array, pairs) = self.counts(meta)?;
            lua::lua_createtable(self.state, array.min(1 << 26) as c_int, pairs.min(1 << 26) as c_int);
            if kind & tag::SHARED != 0 {
                let index = self.anchor(lua::lua_gettop(self.state))?;
                self.share(at, Anchor::Container(index))?;
            }
            self.open(body)
        }
    }

    unsafe fn open_function(&mut self, at: usize, kind: u8, sole: bool) -> Result<Value, Stop> {
        // Each function has a handle of its own, in their order: none can be loaded twice.
        let handle = self.varint()?;
        if handle != self.functions {
            return self.malformed();
        }
        self.functions += 1;
        let Some(Handle::Code(code)) = self.handles.get(handle as usize) else { return self.malformed() };
        let later = kind & tag::LATER != 0;
        let met = Use {
            plain: !later && self.is_plain(code.upvalues),
            sole: sole && kind & (tag::SHARED | tag::LATER) == 0,
            packet: self.number,
        };
        let count = c_int::from(code.upvalues);
        // SAFETY: pushes the function, or the message of a failed load.
        unsafe {
            let globals = (*self.transfer).globals;
            let loaded = &raw mut (*self.transfer).loaded;
            match Loaded::push(loaded, self.state, code, met, (*self.transfer).flavor, globals) {
                Pushed::Function => {}
                Pushed::Borrowed => *self.borrowed = Some(code.id),
                Pushed::OutOfMemory => return self.fail(Code::Memory, "the state is out of memory"),
                Pushed::Failed => return self.no_such_name(),
            }
            if later {
                return self.put_off(at, LaterKind::Function { count });
            }
            let mut anchor = None;
            if kind & tag::SHARED != 0 {
                let index = self.anchor(lua::lua_gettop(self.state))?;
                self.share(at, Anchor::Container(index))?;
                anchor = Some(index);
            }
            self.open(Kind::Function { next: 1, count, anchor })
        }
    }

    /// Whether the function whose cells come next has the globals as its only upvalue or environment.
    fn is_plain(&self, upvalues: u8) -> bool {
        let mut ahead = self.from;
        if lua::HAS_FENV {
            return upvalues == 0 && ahead.byte() == Ok(tag::GLOBALS);
        }
        upvalues == 0 || (upvalues == 1 && ahead.byte() == Ok(tag::CELL) && ahead.byte() == Ok(tag::GLOBALS))
    }

    /// Anchors the container on top; its body comes after the roots.
    unsafe fn put_off(&mut self, at: usize, kind: LaterKind) -> Result<Value, Stop> {
        // SAFETY: the container is on top.
        let anchor = unsafe { self.anchor(lua::lua_gettop(self.state))? };
        self.share(at, Anchor::Container(anchor))?;
        if self.decoder.later.try_reserve(1).is_err() {
            return self.fail(Code::Memory, "there is no memory to decode the packet");
        }
        self.decoder.later.push_back(Later { anchor, kind });
        Ok(Value::Whole)
    }

    /// Pushes a container that was put off, with a frame for its body.
    unsafe fn open_later(&mut self, later: Later) -> Step {
        // SAFETY: the anchor was made when it was put off.
        unsafe {
            self.make_room(10)?;
            lua::lua_rawgeti(self.state, ANCHORS, later.anchor);
            match later.kind {
                LaterKind::Table { meta } => {
                    let (body, _, _) = self.counts(meta)?;
                    self.open(body)?;
                }
                LaterKind::Function { count } => {
                    self.open(Kind::Function { next: 1, count, anchor: Some(later.anchor) })?;
                }
            }
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        let byte = self.from.byte();
        self.read(byte)
    }

    fn varint(&mut self) -> Result<u64, Stop> {
        let n = self.from.varint();
        self.read(n)
    }

    #[inline]
    fn read<T>(&mut self, read: Result<T, Malformed>) -> Result<T, Stop> {
        match read {
            Ok(value) => Ok(value),
            Err(Malformed) => self.malformed(),
        }
    }

    /// Stops with the message on top.
    #[cold]
    unsafe fn no_such_name<T>(&mut self) -> Result<T, Stop> {
        // SAFETY: a string is on top.
        let text = unsafe { lua::bytes_at(self.state, -1) };
        if text == NO_MEMORY {
            return self.fail(Code::Memory, "the state is out of memory");
        }
        let text = String::from_utf8_lossy(text).into_owned();
        self.decoder.failure = Some(Error::new(Code::Transfer, text));
        Err(Stop)
    }

    #[cold]
    fn malformed<T>(&mut self) -> Result<T, Stop> {
        self.fail(Code::Transfer, "the packet is malformed")
    }

    #[cold]
    fn fail<T>(&mut self, code: Code, text: &str) -> Result<T, Stop> {
        self.decoder.failure = Some(Error::new(code, text));
        Err(Stop)
    }
}

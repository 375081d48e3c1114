//! What the fuzz targets, and the replay in `tests/packets.rs`, hold the codec to. Shared by inclusion.
//!
//! An input of the target `packet` is three bytes, which say how, and the bytes of a packet, which is decoded
//! with the handles of a real one: damaged bytes never come with damaged code.

use threadpool::codec::wire::{self, MAX_DEPTH, Malformed, Reader, Writer, tag};
use threadpool::codec::{Bytes, Handle, Packet};
use threadpool::error::Code;
use threadpool::fuzzing::{Memory, Session};

/// Each returns the values of one packet. Together they use every tag of the wire format.
pub const SEEDS: &[&str] = &[
    // 0: scalars
    "return nil, true, false, 0, -1, 2^53, 1/0, 0/0, 0.1, '', 'a\\0b', ('x'):rep(300)",
    "return math.maxinteger, math.mininteger, 1e308, -0.0, 63, 64, -64, -65",
    // 2: records, with keys that repeat
    "local t = {} for i = 1, 8 do t[i] = {id = i, name = 'n' .. i, score = i / 3} end return t",
    // 3: identity and cycles
    "local t = {} t.self, t[1] = t, {t} t[t] = t[1] return t, t, {t, {t}}",
    // 4: metatables, one that two objects share, one that is its own
    "local c = {area = function(s) return s.side end} c.__index = c\n\
     return setmetatable({side = 1}, c), setmetatable({side = 2}, c), setmetatable({c}, {__mode = 'k'})",
    "local m = {} setmetatable(m, m) m.__index = setmetatable({}, {__index = m}) return m",
    // 6: closures that share cells, and recursion
    "local n, go = 0 local function get() return n end local function set(v) n = v end\n\
     function go(i) if i > 0 then return go(i - 1) end return get end return get, set, go, {get, go}",
    // 7: a task, whose function may be kept and used again
    "local k, t = 2, {3} return function(x) return x * k + t[1] end, 21",
    "return function(x) return tostring(x) end, 'x'",
    // 9: two closures of one code, with and without cells
    "local function make(n) return function() return n end, function() return 1 end end\n\
     local a, b = make(1) local c, d = make('two') return a, b, c, d",
    // 10: the standard library, a module and what is in it
    "local s = require 'shapes' return string.format, string, _G, s, s.new, s.new(3), {table.concat}",
    "local s, insert = require 'shapes', table.insert return function() insert(s.unit, s.shape.new(2)) end",
    // 12: deeper than containers nest inline
    "local t = {} for i = 1, 60 do t = {t, i} end return t",
    "local f = tostring for i = 1, 60 do local g = f f = function() return g end end return f",
    "local t = {} for i = 1, 60 do t = setmetatable({next = t}, {__index = t}) end return t, {t}",
    // 15: holes, and keys of every kind
    "return {1, nil, 3, nil, nil, 6}, {[true] = 1, [0.5] = 2, [-1] = 3, [{}] = 4, [tostring] = 5, [''] = 6}",
    // 16: more keys than a packet numbers
    "local t = {} for i = 1, 140 do t['key' .. i] = {['key' .. i] = i} end return t",
    // 17: an address
    "local u = 1 local f = function() return u end local id = debug.upvalueid\n\
     if id then return id(f, 1), {[id(f, 1)] = 1} end return f",
    // 18: environments, as a cell or of the function itself
    "local env = {x = 1} if setfenv then return setfenv(function() return x end, env), env end\n\
     local _ENV = env return function() return x end, function() y = 2 end, env",
    // 19: nothing
    "return",
];

/// Bytes before the packet: which seed's handles; task, encode again; memory.
pub const HEAD: usize = 3;
const TASK: u8 = 1;
const AGAIN: u8 = 2;

/// Lua memory that a packet may need at any time per byte, per byte of its code, and in any case.
const PER_BYTE: usize = 64;
const PER_CODE_BYTE: usize = 16;
const FLOOR: usize = 16 << 10;
/// What a state may come to keep in all: loaded functions, room in its tables.
const KEPT: usize = 1 << 20;

/// Real packets, and the state into which what is made of them is decoded.
pub struct Packets {
    here: Session,
    seeds: Vec<Packet>,
    first_use: Option<usize>,
}

impl Packets {
    pub fn new() -> Packets {
        let mut there = Session::new();
        let seeds = SEEDS
            .iter()
            .map(|source| there.encode(source, Memory::Plenty).unwrap_or_else(|e| panic!("{e} in {source}")))
            .collect();
        Packets { here: Session::new(), seeds, first_use: None }
    }

    /// The seeds as inputs.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        let input = |(n, seed): (usize, &Packet)| [&[n as u8, n as u8 & 3, 0], &seed.bytes[..]].concat();
        self.seeds.iter().enumerate().map(input).collect()
    }

    /// The seed that an input chooses.
    pub fn seed(&self, input: &[u8]) -> &Packet {
        &self.seeds[usize::from(input[0]) % self.seeds.len()]
    }

    /// Decodes an input. Whether it is a packet or not, it costs no more than its length allows and leaves
    /// nothing behind; and what did arrive can travel on, or is refused.
    pub fn check(&mut self, input: &[u8]) {
        let Some((head, bytes)) = input.split_at_checked(HEAD) else { return };
        let seed = self.seed(head);
        let packet = Packet { bytes: Bytes::from_slice(bytes), handles: seed.handles.clone() };
        let memory = match head[2] {
            0 => Memory::Plenty,
            1 => Memory::Collects,
            n => Memory::Ends(u32::from(n) - 2),
        };
        let decoded = self.here.decode(&packet, head[1] & TASK != 0, head[1] & AGAIN != 0, memory);

        let code = |handle: &Handle| if let Handle::Code(code) = handle { code.bytes.len() } else { 0 };
        let code: usize = packet.handles.iter().map(code).sum();
        let allowed = FLOOR + PER_BYTE * bytes.len() + PER_CODE_BYTE * code;
        assert!(
            decoded.peak <= allowed,
            "{} bytes of packet took {} of memory, {allowed} were allowed",
            bytes.len(),
            decoded.peak
        );
        let first = *self.first_use.get_or_insert(decoded.used);
        assert!(decoded.used <= first + KEPT, "the state grew from {first} to {}", decoded.used);

        match &decoded.values {
            Ok(values) => assert!(*values <= bytes.len(), "{values} values of {} bytes", bytes.len()),
            Err(error) => assert!(
                error.code == Code::Transfer || error.code == Code::Memory && may_end(memory, bytes),
                "failed with {error}"
            ),
        }
        if let Some(Ok(again)) = &decoded.again {
            let arrived = self.here.decode(again, false, false, Memory::Plenty).values;
            assert_eq!(arrived.ok(), decoded.values.ok(), "what was encoded again does not arrive");
        }
    }
}

/// Memory may run out when it is short, and the stack of a state when there are very many values.
fn may_end(memory: Memory, bytes: &[u8]) -> bool {
    memory != Memory::Plenty || bytes.len() > 100_000
}

/// Reads arbitrary bytes with every function of the reader, and writes again what was read.
pub fn wire(data: &[u8]) {
    let mut reader = Reader::new(data);
    while let Ok(kind) = reader.byte() {
        let at = reader.position();
        assert_eq!(at + reader.left(), data.len());
        let mut ahead = reader;
        match operand(&mut reader, kind, data) {
            Ok(()) => assert!(reader.position() >= at && reader.position() <= data.len()),
            // What cannot be read is there nevertheless.
            Err(Malformed) => {
                assert_eq!(ahead.raw(data.len() - at), Ok(&data[at..]));
                assert_eq!(ahead.byte(), Err(Malformed));
                return;
            }
        }
    }
    assert_eq!(reader.left(), 0);
}

fn operand(reader: &mut Reader, kind: u8, data: &[u8]) -> Result<(), Malformed> {
    let mut copy = Bytes::new();
    let mut writer = Writer::new(&mut copy);
    match kind {
        tag::INT => {
            let n = reader.integer()?;
            writer.integer(kind, n).unwrap();
            assert_eq!(Reader::new(&copy[1..]).integer(), Ok(n));
        }
        tag::FLOAT | tag::POINTER => {
            let bytes = reader.fixed()?;
            writer.fixed(kind, bytes).unwrap();
            assert_eq!(copy[1..], bytes);
        }
        tag::STR | tag::KEY_DEF | tag::NAME => {
            let bytes = reader.string()?;
            writer.string(kind, bytes).unwrap();
            assert_eq!(Reader::new(&copy[1..]).string(), Ok(bytes));
        }
        tag::REF | tag::OBJECT | tag::FUNCTION | tag::CELL_REF => {
            let n = reader.varint()?;
            writer.varint(n).unwrap();
            assert_eq!(Reader::new(&copy).varint(), Ok(n));
        }
        tag::TABLE => {
            let (array, pairs) = reader.counts()?;
            let least = u64::from(array) + 2 * u64::from(pairs);
            assert!(least <= reader.left() as u64, "counts that the packet cannot hold");
            writer.counts().unwrap();
            writer.patch_counts(0, array, pairs);
            writer.raw(&data[reader.position()..]).unwrap();
            assert_eq!(Reader::new(&copy).counts(), Ok((array, pairs)));
        }
        n => {
            let bytes = reader.raw(usize::from(n) % (MAX_DEPTH * 2))?;
            writer.raw(bytes).unwrap();
            writer.patch(0, !n);
            writer.patch(usize::MAX, n);
            assert_eq!(writer.at(0), if bytes.is_empty() { tag::NIL } else { !n });
        }
    }
    Ok(())
}

/// Inputs for [`wire`]: all its operands, in order.
pub fn wire_inputs() -> Vec<Vec<u8>> {
    let mut bytes = Bytes::new();
    let mut writer = Writer::new(&mut bytes);
    for n in [0, -1, 63, -65, i64::MAX, i64::MIN] {
        writer.integer(tag::INT, n).unwrap();
    }
    writer.fixed(tag::FLOAT, 0.1f64.to_le_bytes()).unwrap();
    writer.string(tag::KEY_DEF, b"key").unwrap();
    writer.string(tag::NAME, &[b'x'; 200]).unwrap();
    for n in [0, 127, 128, u64::MAX] {
        writer.byte(tag::REF).unwrap();
        writer.varint(n).unwrap();
    }
    writer.byte(tag::TABLE).unwrap();
    let at = writer.position();
    writer.counts().unwrap();
    writer.patch_counts(at, 2, 1);
    writer.raw(&[tag::NIL; 4]).unwrap();
    let header = [wire::VERSION, 3, 1, b'a', b'b', b'c', 4, 5, 6];
    vec![bytes.to_vec(), header.to_vec()]
}

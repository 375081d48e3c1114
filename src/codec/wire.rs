//! The wire format: tags, and a writer and a reader of their operands. Pure bytes.
//!
//! Everything is little-endian; a position is a byte offset in the packet. A container that is met again
//! is named by the offset of its tag, and the writer goes back to mark that tag as shared: so a graph
//! without sharing costs nothing, on either side. `README.md` has the grammar.

use super::Bytes;

/// The first byte of every packet.
pub const VERSION: u8 = 1;

/// One value, or one upvalue cell. The grammar after each: `varint` is LEB128, `u32` four bytes.
pub mod tag {
    /// `nil`
    pub const NIL: u8 = 0x00;
    /// `false`
    pub const FALSE: u8 = 0x01;
    /// `true`
    pub const TRUE: u8 = 0x02;
    /// An integer (5.3+): zigzag varint.
    pub const INT: u8 = 0x03;
    /// A float, or any number before 5.3: the 8 bytes of an IEEE double.
    pub const FLOAT: u8 = 0x04;
    /// A string: varint length, bytes.
    pub const STR: u8 = 0x05;
    /// A string as table key that takes the next key index: varint length, bytes.
    pub const KEY_DEF: u8 = 0x06;
    /// A key that was defined before: u8 index.
    pub const KEY_REF: u8 = 0x07;
    /// A light userdata: 8 bytes. Meaningful in this process only.
    pub const POINTER: u8 = 0x08;

    /// A table: u32 array length, u32 pair count, the array's values, the pairs, with [`META`] the
    /// metatable. The bits below may be added.
    pub const TABLE: u8 = 0x10;
    /// A Lua function: varint code handle, its cells (as many as the code has upvalues), and on 5.1 its
    /// environment. [`SHARED`] and [`LATER`] may be added.
    pub const FUNCTION: u8 = 0x18;
    /// Added to a container's tag: it is referred to later.
    pub const SHARED: u8 = 0x01;
    /// Added to a container's tag: its body (for a function: its cells) comes after the roots.
    pub const LATER: u8 = 0x02;
    /// Added to a table's tag: it has a metatable.
    pub const META: u8 = 0x04;

    /// A container met before: varint offset of its tag.
    pub const REF: u8 = 0x20;
    /// The table of globals of whatever state decodes.
    pub const GLOBALS: u8 = 0x21;
    /// A value known by name on both sides: varint length, name.
    pub const NAME: u8 = 0x22;
    /// A shared object: varint handle.
    pub const OBJECT: u8 = 0x23;

    /// An upvalue cell: its value.
    pub const CELL: u8 = 0x28;
    /// A cell that another function shares later: its value.
    pub const CELL_SHARED: u8 = 0x29;
    /// The cell of a function met before: varint offset of its cell tag.
    pub const CELL_REF: u8 = 0x2a;
}

/// The most distinct keys that a packet numbers; further ones travel as plain strings.
pub const MAX_KEYS: usize = 128;

/// How many containers nest inline before the writer puts their bodies off to the end of the packet.
/// Both sides keep one Lua stack frame of up to three slots per level.
pub const MAX_DEPTH: usize = 48;

/// The allocator has no room for the packet.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// The bytes are not a packet of this version.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

type Written = Result<(), OutOfMemory>;
type Read<T> = Result<T, Malformed>;

/// Appends to a buffer that it grows fallibly.
pub struct Writer<'a> {
    bytes: &'a mut Bytes,
}

impl<'a> Writer<'a> {
    /// Writes after what `bytes` holds.
    pub fn new(bytes: &'a mut Bytes) -> Writer<'a> {
        Writer { bytes }
    }

    /// The offset of the next byte.
    #[inline]
    pub fn position(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn reserve(&mut self, n: usize) -> Written {
        if self.bytes.capacity() - self.bytes.len() < n { self.grow(n) } else { Ok(()) }
    }

    #[cold]
    fn grow(&mut self, n: usize) -> Written {
        self.bytes.try_reserve(n.max(128)).map_err(|_| OutOfMemory)
    }

    /// One byte: a tag, an index.
    #[inline]
    pub fn byte(&mut self, byte: u8) -> Written {
        self.reserve(1)?;
        self.bytes.push(byte);
        Ok(())
    }

    /// Bytes as they are.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) -> Written {
        self.reserve(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// A length, an index or an offset.
    #[inline]
    pub fn varint(&mut self, mut n: u64) -> Written {
        self.reserve(10)?;
        while n >= 0x80 {
            self.bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.bytes.push(n as u8);
        Ok(())
    }

    /// A tag and an integer, small ones short.
    #[inline]
    pub fn integer(&mut self, tag: u8, n: i64) -> Written {
        self.byte(tag)?;
        self.varint(((n << 1) ^ (n >> 63)) as u64)
    }

    /// A tag and eight bytes.
    #[inline]
    pub fn fixed(&mut self, tag: u8, bytes: [u8; 8]) -> Written {
        self.reserve(9)?;
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    /// A tag, a length and that many bytes.
    #[inline]
    pub fn string(&mut self, tag: u8, bytes: &[u8]) -> Written {
        self.reserve(11 + bytes.len())?;
        self.bytes.push(tag);
        self.varint(bytes.len() as u64)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Space for two counts that [`patch_counts`](Writer::patch_counts) fills in.
    #[inline]
    pub fn counts(&mut self) -> Written {
        self.raw(&[0; 8])
    }

    /// Fills in the counts at `at`.
    #[inline]
    pub fn patch_counts(&mut self, at: usize, array: u32, pairs: u32) {
        if let Some(slot) = self.bytes.get_mut(at..at + 8) {
            slot[..4].copy_from_slice(&array.to_le_bytes());
            slot[4..].copy_from_slice(&pairs.to_le_bytes());
        }
    }

    /// Replaces the byte at `at`: a tag that turned out to be shared, a count in the header.
    #[inline]
    pub fn patch(&mut self, at: usize, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
        }
    }

    /// The byte at `at`, which the writer wrote before.
    #[inline]
    pub fn at(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(tag::NIL)
    }
}

/// Takes operands off the front of a packet; every length is checked against what is left.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, position: 0 }
    }

    /// The offset of the next byte.
    #[inline]
    pub fn position(&self) -> usize {
        self.position
    }

    /// How many bytes are left.
    #[inline]
    pub fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// One byte.
    #[inline]
    pub fn byte(&mut self) -> Read<u8> {
        let byte = *self.bytes.get(self.position).ok_or(Malformed)?;
        self.position += 1;
        Ok(byte)
    }

    /// `n` bytes as they are.
    #[inline]
    pub fn raw(&mut self, n: usize) -> Read<&'a [u8]> {
        let end = self.position.checked_add(n).ok_or(Malformed)?;
        let bytes = self.bytes.get(self.position..end).ok_or(Malformed)?;
        self.position = end;
        Ok(bytes)
    }

    /// A length, an index or an offset.
    #[inline]
    pub fn varint(&mut self) -> Read<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(Malformed)
    }

    /// The operand of [`tag::INT`].
    #[inline]
    pub fn integer(&mut self) -> Read<i64> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// Eight bytes.
    #[inline]
    pub fn fixed(&mut self) -> Read<[u8; 8]> {
        self.raw(8)?.try_into().map_err(|_| Malformed)
    }

    /// A length and that many bytes.
    #[inline]
    pub fn string(&mut self) -> Read<&'a [u8]> {
        let n = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        self.raw(n)
    }

    /// The counts of a table, each checked against the bytes that are left (one a value, two a pair), so
    /// that a forged count cannot make the reader allocate.
    #[inline]
    pub fn counts(&mut self) -> Read<(u32, u32)> {
        let both = self.fixed()?;
        let array = u32::from_le_bytes([both[0], both[1], both[2], both[3]]);
        let pairs = u32::from_le_bytes([both[4], both[5], both[6], both[7]]);
        let least = u64::from(array) + 2 * u64::from(pairs);
        if least > self.left() as u64 {
            return Err(Malformed);
        }
        Ok((array, pairs))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn integers_round_trip() {
        let mut bytes = Bytes::new();
        let all = [0, 1, -1, 63, 64, -64, -65, 1 << 31, i64::MAX, i64::MIN, i64::MIN + 1];
        for n in all {
            Writer::new(&mut bytes).integer(tag::INT, n).unwrap();
        }
        let mut reader = Reader::new(&bytes);
        for n in all {
            assert_eq!(reader.byte(), Ok(tag::INT));
            assert_eq!(reader.integer(), Ok(n));
        }
        assert_eq!(reader.byte(), Err(Malformed));
    }

    #[test]
    fn strings_and_counts_round_trip() {
        let mut bytes = Bytes::new();
        let mut writer = Writer::new(&mut bytes);
        writer.string(tag::STR, b"a\0b").unwrap();
        let at = writer.position();
        writer.counts().unwrap();
        writer.patch_counts(at, 2, 1);
        writer.raw(&[0; 4]).unwrap();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.byte(), Ok(tag::STR));
        assert_eq!(reader.string(), Ok(&b"a\0b"[..]));
        assert_eq!(reader.counts(), Ok((2, 1)));
    }

    #[test]
    fn forged_lengths_are_refused() {
        let mut bytes = Bytes::new();
        Writer::new(&mut bytes).varint(u64::MAX).unwrap();
        assert_eq!(Reader::new(&bytes).string(), Err(Malformed));
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(Malformed));
        assert_eq!(Reader::new(&[0xff; 8]).counts(), Err(Malformed));
        assert_eq!(Reader::new(&[1, 0, 0, 0, 0, 0, 0, 0]).counts(), Err(Malformed));
        assert_eq!(Reader::new(&[5, 1]).string(), Err(Malformed));
    }
}

//! What `fuzz/` has found and would find, without its tools: the inputs kept in `fuzz/corpus`, packets that
//! are forged on purpose, and some thousand damaged ones. Runs with `--features lua54,vendored,fuzzing`.

#![cfg(all(feature = "lua", feature = "fuzzing"))]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use threadpool::codec::wire::{self, Writer, tag};
use threadpool::codec::{Bytes, Packet};
use threadpool::error::Code;
use threadpool::fuzzing::{Memory, Session};

#[path = "../fuzz/checks.rs"]
mod checks;

use checks::{HEAD, Packets, SEEDS};

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Real packets, and a file that has the input which is being checked, for the case that the process dies.
struct Checker {
    packets: Packets,
    last: File,
}

impl Checker {
    fn new() -> Checker {
        let test = std::thread::current().name().unwrap_or("main").to_string();
        let last = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("packet-{test}"));
        Checker { packets: Packets::new(), last: File::create(last).unwrap() }
    }

    fn check(&mut self, input: &[u8]) {
        self.last.write_all_at(input, 0).unwrap();
        self.last.set_len(input.len() as u64).unwrap();
        self.packets.check(input);
    }
}

#[test]
fn kept_inputs_of_the_wire() {
    for file in corpus("wire") {
        checks::wire(&fs::read(file).unwrap());
    }
    checks::wire_inputs().iter().for_each(|input| checks::wire(input));
}

#[test]
fn kept_inputs_of_the_packet() {
    let mut checker = Checker::new();
    for file in corpus("packet") {
        checker.check(&fs::read(file).unwrap());
    }
}

#[test]
fn real_packets_arrive() {
    let mut checker = Checker::new();
    for mut input in checker.packets.inputs() {
        for how in 0..4 {
            input[1] = how;
            checker.check(&input);
        }
    }
}

/// xorshift64
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// Bytes that mean something: every tag with its bits, and ends of ranges.
const TELLING: &[u8] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x20,
    0x21, 0x22, 0x23, 0x28, 0x29, 0x2a, 0x7f, 0x80, 0xfe, 0xff,
];

/// Does one random damage to the packet in an input; `other` is where bytes may come from.
fn damage(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    let packet = input.len() - HEAD;
    let at = HEAD + random.below(packet);
    let length = 1 + random.below(8.min(packet.max(1)));
    let end = (at + length).min(input.len());
    match random.below(8) {
        0 if packet > 0 => input[at] ^= 1 << random.below(8),
        1 if packet > 0 => input[at] = TELLING[random.below(TELLING.len())],
        2 => input.insert(at, TELLING[random.below(TELLING.len())]),
        3 => drop(input.drain(at..end)),
        4 => {
            let (to, piece) = (HEAD + random.below(packet), input[at..end].to_vec());
            input.splice(to..to, piece);
        }
        5 => {
            let from = HEAD + random.below(other.len() - HEAD);
            input.splice(at..at, other[from..].iter().copied().take(1 + random.below(24)));
        }
        6 if packet > 0 => input[at] = random.below(packet) as u8,
        7 => input.truncate(at),
        _ => {}
    }
}

#[test]
fn damaged_packets_are_refused_or_arrive() {
    let mut checker = Checker::new();
    let seeds = checker.packets.inputs();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for n in 0..20_000 {
        let mut input = seeds[n % seeds.len()].clone();
        input[1] = random.below(4) as u8;
        input[2] = match random.below(8) {
            0 => 1,
            1 => random.below(64) as u8,
            _ => 0,
        };
        for _ in 0..=random.below(3) {
            let other = random.below(seeds.len());
            damage(&mut random, &mut input, &seeds[other]);
        }
        checker.check(&input);
    }
}

/// A packet with so many roots, made by hand; the code is that of `seed`.
fn forge(roots: u64, seed: usize, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut bytes = Bytes::new();
    let mut writer = Writer::new(&mut bytes);
    writer.byte(wire::VERSION).unwrap();
    writer.byte(0).unwrap();
    writer.varint(roots).unwrap();
    body(&mut writer);
    [&[seed as u8, 0, 0], &bytes[..]].concat()
}

/// A table's tag and counts.
fn table(writer: &mut Writer, kind: u8, array: u32, pairs: u32) {
    writer.byte(kind).unwrap();
    let at = writer.position();
    writer.counts().unwrap();
    writer.patch_counts(at, array, pairs);
}

const LONG: usize = 100_000;

/// Each of the tables promises as many values as there are bytes left.
#[test]
fn forged_counts_that_nest() {
    for pairs in [false, true] {
        let input = forge(1, 0, |writer| {
            for _ in 0..40 {
                let left = (LONG - writer.position() - 9) as u32;
                let (array, pairs) = if pairs { (0, left / 2) } else { (left, 0) };
                table(writer, tag::TABLE, array, pairs);
                if pairs > 0 {
                    writer.byte(tag::TRUE).unwrap(); // the first key; the next table is its value
                }
            }
            writer.raw(&vec![0xff; LONG - writer.position()]).unwrap();
        });
        Checker::new().check(&input);
    }
}

/// One function of a packet is asked for again and again.
#[test]
fn forged_repetition_of_code() {
    let seed = SEEDS.iter().position(|source| source.contains("function go(")).unwrap();
    for kind in [tag::FUNCTION | tag::LATER, tag::FUNCTION] {
        let input = forge(1, seed, |writer| {
            table(writer, tag::TABLE, LONG as u32 / 2, 0);
            for _ in 0..LONG / 2 {
                writer.raw(&[kind, 2]).unwrap();
            }
        });
        Checker::new().check(&input);
    }
}

/// Tables whose bodies never come.
#[test]
fn forged_tables_without_a_body() {
    let input = forge(1, 0, |writer| {
        table(writer, tag::TABLE, LONG as u32, 0);
        writer.raw(&vec![tag::TABLE | tag::LATER; LONG]).unwrap();
    });
    Checker::new().check(&input);
}

/// More values than the stack of a state has room for.
#[test]
fn forged_number_of_values() {
    let input = forge(2_000_000, 0, |writer| writer.raw(&vec![tag::NIL; 2_000_000]).unwrap());
    Checker::new().check(&input);
}

/// Every length of every packet, as if the rest had been lost.
#[test]
fn truncated_packets() {
    let mut checker = Checker::new();
    for input in checker.packets.inputs() {
        for end in HEAD..input.len().min(600) {
            checker.check(&input[..end]);
        }
    }
}

/// Memory that ends with the n-th allocation, for each n until all succeeds.
#[test]
fn memory_that_ends() {
    let mut packets: Vec<Packet> = Vec::new();
    let mut there = Session::new();
    for source in SEEDS {
        for n in 0.. {
            match there.encode(source, Memory::Ends(n)) {
                Ok(packet) => {
                    packets.push(packet);
                    break;
                }
                Err(error) => assert_eq!(error.code, Code::Memory, "{error}"),
            }
        }
    }
    for (packet, source) in packets.iter().zip(SEEDS) {
        for task in [false, true] {
            let mut here = Session::new();
            for n in 0.. {
                let decoded = here.decode(packet, task, true, Memory::Ends(n));
                if let Err(error) = &decoded.values {
                    assert_eq!(error.code, Code::Memory, "{error} in {source}");
                }
                match decoded.again {
                    Some(Ok(_)) => break,
                    Some(Err(error)) => assert_eq!(error.code, Code::Memory, "{error} in {source}"),
                    None => {}
                }
            }
            // Nothing of the failures is left behind.
            let values = here.decode(packet, task, false, Memory::Plenty).values;
            assert!(values.is_ok(), "{} in {source}", values.unwrap_err());
        }
    }
}

/// The same packet over and over.
#[test]
fn decoding_keeps_nothing() {
    let packets = Packets::new();
    for (input, source) in packets.inputs().iter().zip(SEEDS) {
        let mut here = Session::new();
        let mut decode = || here.decode(packets.seed(input), true, true, Memory::Plenty).used;
        let used: Vec<usize> = (0..50).map(|_| decode()).collect();
        assert!(used[49] <= used[20], "{source}: {used:?}");
    }
}

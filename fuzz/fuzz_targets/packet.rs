//! Damaged packets, decoded into a Lua state. With `FUZZ_SEEDS` in the environment it first writes the real
//! packets from which to start into that folder.

#![no_main]

use std::cell::OnceCell;
use std::cell::RefCell;

#[path = "../checks.rs"]
#[allow(dead_code)]
mod checks;

thread_local! {
    static PACKETS: OnceCell<RefCell<checks::Packets>> = const { OnceCell::new() };
}

fn with_packets(work: impl FnOnce(&mut checks::Packets)) {
    PACKETS.with(|cell| work(&mut cell.get_or_init(|| RefCell::new(checks::Packets::new())).borrow_mut()));
}

fn write_seeds() {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS") else { return };
    let folder = std::path::Path::new(&folder);
    with_packets(|packets| {
        for (n, input) in packets.inputs().iter().enumerate() {
            std::fs::write(folder.join(format!("seed{n:02}")), input).expect("the folder of the seeds");
        }
    });
}

libfuzzer_sys::fuzz_target!(
    init: write_seeds(),
    |data: &[u8]| with_packets(|packets| packets.check(data))
);

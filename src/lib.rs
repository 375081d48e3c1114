//! Pools of OS threads for Lua.
//!
//! A closure, with everything it captures, is moved to a worker thread that owns an isolated
//! `lua_State`; it runs there, and its results come back to the state that submitted it.
//!
//! ```text
//! Lua call ─▶ api ─▶ transfer::encode ─▶ Packet ─▶ executor (queue, sizing) ─▶ worker thread
//!                                                                                   │
//! caller resumes ◀─ host's loop ◀─ completion::Inbox (fd) ◀─ Packet ◀─ runtime: decode, run, encode
//! ```
//!
//! One direction, no way back up. The rooms, in the order in which data flows through them; each
//! may use those above it in this list and none below:
//!
//! | room | owns | Lua? |
//! |---|---|---|
//! | [`error`], [`mod@sync`] | the one error type; locks and atomics | no |
//! | [`sys`] | the operating system: notifier, threads, fork | no |
//! | [`codec`] | the packet: wire format, shared handles, code | no |
//! | [`executor`] | pools: registry, queue, sizing, sleep, worker loop | no |
//! | [`completion`] | outcomes on their way back: inbox, bell | no |
//! | `lua` | the raw Lua API and what differs between its versions | yes |
//! | `transfer` | Lua values into packets and back | yes |
//! | `runtime` | one Lua state per worker; tasks as coroutines | yes |
//! | `api` | the bindings: what `require "threadpool"` returns | yes |
//!
//! Two rules hold everywhere. Lua errors are `longjmp`s: a call that may raise is made only where no
//! Rust value waits to be dropped. And no lock is held while Lua runs.

pub mod codec;
pub mod completion;
pub mod error;
pub mod executor;
pub mod sync;
pub mod sys;

#[cfg(feature = "lua")]
mod api;
#[cfg(all(feature = "lua", feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "lua")]
mod lua;
#[cfg(feature = "lua")]
mod runtime;
#[cfg(feature = "lua")]
mod transfer;

/// `require "threadpool"`: opens the module in the state of the caller.
#[cfg(feature = "module")]
#[mlua::lua_module(name = "threadpool", skip_memory_check)]
fn luaopen(lua: &mlua::Lua) -> mlua::Result<mlua::Value> {
    api::open(lua)
}

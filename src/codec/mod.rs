//! Layer 1: the packet, the form in which values cross threads. No Lua here, only bytes and shared handles.
//!
//! `README.md` in this folder has the wire format as a table and the identity rules.

#![forbid(unsafe_code)]

mod packet;
pub mod wire;

pub use packet::{Bytes, Code, Handle, Packet, label};

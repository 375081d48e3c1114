//! Layer 3: Lua values into packets and back.
//!
//! [`Transfer`] is what one Lua state keeps for it: scratch memory and caches, owned by the state's module
//! and used by its thread alone. Encoding and decoding each run in one protected call whose Lua C function
//! owns nothing: what they build lives in [`Encoder`] and [`Decoder`], outside that call, so that an error
//! that jumps out of it leaks nothing. Neither recurses.

mod decode;
mod encode;
mod functions;
mod names;
mod path;

use std::ffi::c_int;

use crate::codec::Packet;
use crate::error::{Code, Error, Result};
use crate::lua::{self, Flavor, lua_State};

use decode::Decoder;
use encode::Encoder;
use functions::{Loaded, Sent};
use names::Names;
pub use path::Roots;

/// See the head of this file.
pub struct Transfer {
    flavor: Flavor,
    /// The address of the state's table of globals.
    globals: *const std::ffi::c_void,
    /// Registry references of the two protected C functions.
    encode: c_int,
    decode: c_int,
    sent: Sent,
    loaded: Loaded,
    names: Names,
    /// `None` while in use: a finalizer that submits in the middle of an encode gets scratch of its own.
    encoder: Option<Box<Encoder>>,
    decoder: Option<Box<Decoder>>,
}

impl Transfer {
    /// Prepares a state. May raise, and owns nothing while it does.
    ///
    /// # Safety
    /// `state` is the running thread of a state, with ten stack slots free.
    pub unsafe fn new(state: *mut lua_State) -> Transfer {
        // SAFETY: balanced pushes and pops; everything that allocates Rust memory comes last.
        unsafe {
            lua::lua_pushglobaltable(state);
            let globals = lua::lua_topointer(state, -1);
            lua::lua_pop(state, 1);
            lua::lua_pushcfunction(state, encode::entry);
            let encode = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
            lua::lua_pushcfunction(state, decode::entry);
            let decode = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
            let sent = functions::new_ring(state);
            let names = names::new_tables(state);
            Transfer {
                flavor: lua::flavor(state),
                globals,
                encode,
                decode,
                sent: Sent::new(sent),
                loaded: Loaded::default(),
                names: Names::new(names),
                encoder: None,
                decoder: None,
            }
        }
    }

    /// Gives a value of this module's own, by its registry reference, the same name in every state, under
    /// which it travels. May raise.
    ///
    /// # Safety
    /// `state` is the running thread of this transfer's state, with three stack slots free.
    pub unsafe fn register(&mut self, state: *mut lua_State, name: &[u8], reference: c_int) {
        // SAFETY: as the caller says.
        unsafe { self.names.register(state, name, reference) };
    }

    /// What the state can do.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Encodes the `count` values on top of the stack, and pops them. `packet` is filled, or on failure
    /// left empty. Never raises.
    ///
    /// `this` is a raw pointer because user code may run meanwhile (finalizers, a module's code), and use
    /// the same transfer.
    ///
    /// # Safety
    /// `state` is a thread of this transfer's state that may run, with five stack slots free.
    pub unsafe fn encode(
        this: *mut Transfer,
        state: *mut lua_State,
        packet: &mut Packet,
        count: c_int,
        roots: Roots,
    ) -> Result<()> {
        // SAFETY: borrowed for this statement only, as everywhere here.
        let mut encoder = unsafe { (*this).encoder.take().unwrap_or_default() };
        packet.clear();
        let mut job = encode::Job {
            transfer: this,
            encoder: &mut encoder,
            packet,
            roots,
            collector_stopped: false,
            done: false,
        };
        let job: *mut encode::Job = &mut job;
        // SAFETY: the C function, its job and the values are the whole call; the job outlives it.
        let done = unsafe {
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*this).encode.into());
            lua::lua_pushlightuserdata(state, job.cast());
            // Both, in their order, under the values.
            lua::lua_insert(state, -(count + 2));
            lua::lua_insert(state, -(count + 2));
            let status = lua::lua_pcall(state, count + 1, 0, 0);
            if (*job).collector_stopped {
                lua::lua_gc(state, lua::LUA_GCRESTART, 0);
            }
            if status != lua::LUA_OK { Err(caught(state, status)) } else { Ok((*job).done) }
        };
        let result = match done {
            Ok(true) => Ok(()),
            Ok(false) => Err(encoder.take_failure()),
            Err(error) => Err(error),
        };
        if result.is_err() {
            packet.clear();
        }
        encoder.clear();
        // SAFETY: as above.
        unsafe { (*this).encoder = Some(encoder) };
        result
    }

    /// Pushes the values of a packet; returns how many. On failure nothing is pushed. Never raises.
    ///
    /// With `task` the first value is the function of a task: it may be a loaded function that is used
    /// again; then its code id is returned too, to be given to [`release`](Transfer::release) when the
    /// task has ended.
    ///
    /// # Safety
    /// `state` is a thread of this transfer's state that may run, with five stack slots free.
    pub unsafe fn decode(
        this: *mut Transfer,
        state: *mut lua_State,
        packet: &Packet,
        task: bool,
    ) -> Result<(c_int, Option<u64>)> {
        // SAFETY: borrowed for one statement only, as everywhere here.
        let (number, mut decoder) =
            unsafe { ((*this).loaded.begin_packet(), (*this).decoder.take().unwrap_or_default()) };
        let mut job = decode::Job {
            transfer: this,
            decoder: &mut decoder,
            packet,
            task,
            number,
            borrowed: None,
            done: false,
        };
        let job: *mut decode::Job = &mut job;
        // SAFETY: as in `encode`.
        let (result, borrowed) = unsafe {
            let top = lua::lua_gettop(state);
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, (*this).decode.into());
            lua::lua_pushlightuserdata(state, job.cast());
            let status = lua::lua_pcall(state, 1, lua::LUA_MULTRET, 0);
            let result = if status != lua::LUA_OK {
                Err(caught(state, status))
            } else if (*job).done {
                Ok(lua::lua_gettop(state) - top)
            } else {
                lua::lua_settop(state, top);
                Err((*(*job).decoder).take_failure())
            };
            (result, (*job).borrowed)
        };
        decoder.clear();
        // SAFETY: as above.
        unsafe {
            (*this).decoder = Some(decoder);
            match (result, borrowed) {
                (Ok(count), borrowed) => Ok((count, borrowed)),
                (Err(error), Some(code)) => {
                    (*this).release(code);
                    Err(error)
                }
                (Err(error), None) => Err(error),
            }
        }
    }

    /// The task whose function has this code id has ended: the loaded function may be used again.
    pub fn release(&mut self, code: u64) {
        self.loaded.release(code);
    }
}

/// Takes the error of a failed protected call off the stack.
unsafe fn caught(state: *mut lua_State, status: c_int) -> Error {
    // SAFETY: the error value is on top; `bytes_at` converts nothing.
    unsafe {
        let text = String::from_utf8_lossy(lua::bytes_at(state, -1)).into_owned();
        lua::lua_pop(state, 1);
        if status == lua::LUA_ERRMEM {
            Error::new(Code::Memory, "the state is out of memory")
        } else {
            Error::new(Code::Transfer, text)
        }
    }
}

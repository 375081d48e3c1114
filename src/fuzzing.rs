//! For `fuzz/` and `tests/packets.rs` only: the codec over a Lua state of its own, whose memory is watched.
//!
//! A [`Session`] encodes what a piece of Lua source returns, and decodes packets whose bytes may be anything.
//! Its allocator counts, and refuses when told to, so that callers can hold a packet to the memory that it
//! may cost, and see what happens when there is none. The state can neither open files nor end the process:
//! a forged packet may name any function of the standard library, and make a finalizer of it.

use std::ffi::{c_int, c_void};

/// The whole module, which without the feature `module` nothing else would use.
pub use crate::api::open;
use crate::codec::Packet;
use crate::error::{Code, Error, Result};
use crate::lua::{self, lua_State};
use crate::transfer::{Roots, Transfer};

/// Runs in each state before the codec takes note of its standard library.
const PREPARE: &str = r#"
package.path, package.cpath, package.loadlib = '', '', nil
for _, name in ipairs {'execute', 'exit', 'remove', 'rename', 'tmpname'} do os[name] = nil end
io, package.loaded.io, debug.debug, dofile, loadfile, print = nil
function package.preload.shapes()
    local shape = {}
    shape.__index = shape
    function shape.new(side) return setmetatable({side = side}, shape) end
    function shape:area() return self.side * self.side end
    return {shape = shape, new = shape.new, unit = {1, 1}}
end
"#;

/// How the state's allocator behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It gives whatever is asked for.
    Plenty,
    /// It gives this many times, and then no more.
    Ends(u32),
    /// It refuses every other time: Lua 5.2 and later then collect their garbage and ask again.
    Collects,
}

/// What came of one decode.
pub struct Decoded {
    /// How many values arrived.
    pub values: Result<usize>,
    /// What these encode to.
    pub again: Option<Result<Packet>>,
    /// The bytes that Lua held at the worst moment of the decode, beyond those before it.
    pub peak: usize,
    /// The bytes that Lua holds now that the values are gone.
    pub used: usize,
}

/// What the allocator works on. Lua has a pointer to it.
struct Account {
    /// The allocator that the state was made with, which does the work.
    inner: lua::lua_Alloc,
    inner_data: *mut c_void,
    used: usize,
    peak: usize,
    memory: Memory,
    /// With [`Memory::Collects`]: whether the next request is refused.
    refuse: bool,
}

/// A Lua state with the codec.
pub struct Session {
    state: *mut lua_State,
    protect: lua::Protect,
    transfer: *mut Transfer,
    account: *mut Account,
}

impl Session {
    /// A state with the standard library (less what reaches outside) and a module `shapes`.
    pub fn new() -> Session {
        // SAFETY: a state of our own. Nothing raises unless the machine is out of memory, and then Lua ends
        // the process.
        unsafe {
            let state = lua::luaL_newstate();
            assert!(!state.is_null(), "no memory for a Lua state");
            let mut inner_data = std::ptr::null_mut();
            let account = Box::into_raw(Box::new(Account {
                inner: lua::lua_getallocf(state, &mut inner_data),
                inner_data,
                used: lua::lua_gc(state, lua::LUA_GCCOUNT, 0) as usize * 1024,
                peak: 0,
                memory: Memory::Plenty,
                refuse: true,
            }));
            lua::lua_setallocf(state, allocate, account.cast());
            lua::luaL_openlibs(state);
            let protect = lua::Protect::new(state);
            let mut session = Session { state, protect, transfer: std::ptr::null_mut(), account };
            session.run(PREPARE);
            lua::lua_settop(state, 0);
            session.transfer = Box::into_raw(Box::new(Transfer::new(state)));
            session
        }
    }

    /// Encodes what the source returns.
    pub fn encode(&mut self, source: &str, memory: Memory) -> Result<Packet> {
        let count = self.run(source);
        let packet = self.encode_top(count, memory);
        self.clear();
        packet
    }

    /// Decodes, perhaps encodes what arrived, and forgets it; each step with this memory.
    pub fn decode(&mut self, packet: &Packet, task: bool, again: bool, memory: Memory) -> Decoded {
        // SAFETY: the state is ours and idle; the account outlives it.
        unsafe {
            let before = (*self.account).used;
            (*self.account).peak = before;
            self.set(memory);
            let decoded = Transfer::decode(self.transfer, self.state, packet, task);
            self.set(Memory::Plenty);
            let peak = (*self.account).peak - before;
            let top = lua::lua_gettop(self.state);
            let (count, borrowed) = *decoded.as_ref().unwrap_or(&(0, None));
            assert_eq!(top, count, "values are left on the stack, or missing");
            let again = (again && decoded.is_ok()).then(|| self.encode_top(count, memory));
            if let Some(code) = borrowed {
                (*self.transfer).release(code);
            }
            self.clear();
            let values = decoded.map(|(count, _)| count as usize);
            Decoded { values, again, peak, used: (*self.account).used }
        }
    }

    /// Runs source of ours, which does not fail; returns how many values it left.
    fn run(&mut self, source: &str) -> c_int {
        // SAFETY: the state is ours and idle.
        unsafe {
            lua::lua_settop(self.state, 0);
            let (text, name) = (source.as_ptr().cast(), c"=seed".as_ptr());
            let loaded = lua::luaL_loadbufferx(self.state, text, source.len(), name, c"t".as_ptr());
            if loaded != lua::LUA_OK || lua::lua_pcall(self.state, 0, lua::LUA_MULTRET, 0) != lua::LUA_OK {
                panic!("{}", String::from_utf8_lossy(lua::bytes_at(self.state, -1)));
            }
            lua::lua_gettop(self.state)
        }
    }

    fn encode_top(&mut self, count: c_int, memory: Memory) -> Result<Packet> {
        let mut packet = Packet::default();
        // SAFETY: the values are on top, and the slots are made sure of.
        unsafe {
            if lua::lua_checkstack(self.state, count + 5) == 0 {
                lua::lua_settop(self.state, 0);
                return Err(Error::new(Code::Memory, "the Lua stack is full"));
            }
            self.set(memory);
            let encoded = Transfer::encode(self.transfer, self.state, &mut packet, count, Roots::Results);
            self.set(Memory::Plenty);
            assert_eq!(lua::lua_gettop(self.state), 0, "values are left on the stack, or missing");
            encoded.map(|()| packet)
        }
    }

    fn set(&mut self, memory: Memory) {
        // SAFETY: the account outlives the state.
        unsafe {
            (*self.account).memory = memory;
            (*self.account).refuse = true;
        }
    }

    /// Empties the stack and collects all garbage, of which finalizers may make more.
    fn clear(&mut self) {
        // SAFETY: the state is ours and idle. Before 5.4 a finalizer's error comes out of the collection,
        // and the next one goes on with the rest.
        unsafe {
            lua::lua_settop(self.state, 0);
            loop {
                let before = (*self.account).used;
                self.protect.call(self.state, 0, |state| {
                    lua::lua_gc(state, lua::LUA_GCCOLLECT, 0);
                    0
                });
                lua::lua_settop(self.state, 0);
                if (*self.account).used >= before {
                    break;
                }
            }
        }
    }
}

impl Default for Session {
    fn default() -> Session {
        Session::new()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: made in `new`, used no more; the state goes first, as it uses the others.
        unsafe {
            lua::lua_close(self.state);
            drop(Box::from_raw(self.transfer));
            drop(Box::from_raw(self.account));
        }
    }
}

/// The allocator: counts, and may refuse.
unsafe extern "C" fn allocate(
    account: *mut c_void,
    block: *mut c_void,
    old: usize,
    new: usize,
) -> *mut c_void {
    // SAFETY: Lua passes the account, which outlives it, and blocks that it has from here.
    unsafe {
        let account = &mut *account.cast::<Account>();
        let old = if block.is_null() { 0 } else { old };
        // To give memory back never fails: Lua relies on it.
        if new > old {
            match &mut account.memory {
                Memory::Plenty => {}
                Memory::Ends(0) => return std::ptr::null_mut(),
                Memory::Ends(left) => *left -= 1,
                Memory::Collects => {
                    account.refuse = !account.refuse;
                    if !account.refuse {
                        return std::ptr::null_mut();
                    }
                }
            }
        }
        account.used = account.used.wrapping_add(new).wrapping_sub(old);
        account.peak = account.peak.max(account.used);
        (account.inner)(account.inner_data, block, old, new)
    }
}

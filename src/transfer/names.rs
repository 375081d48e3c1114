//! Values that travel by name, since both sides have their own: modules and what is one level inside them.
//!
//! A name is a kind, a module and perhaps a field (`m` `cjson` NUL `decode`). Kind `s` is the standard
//! library: such a value is named only if it is the one that a fresh state has there, and arrives as the one
//! that the receiving state was made with, whatever a program has put in its place. Kind `m` is any other
//! loaded module: it arrives as `require` gives it.
//!
//! The names of a state are collected by a scan of `package.loaded`, again whenever that has changed. A scan
//! finds values by their address; a hit is confirmed in a table with weak keys, so that an address which
//! was used again never lies.
//!
//! To see whether `package.loaded` has changed takes a walk through it, too much for every table of every
//! packet. So a table counts as a module's only if it has a metatable or a function in it, or is captured
//! as an upvalue: a module that is mere data, given as an argument, is copied like any data.

use std::collections::{HashMap, HashSet};
use std::ffi::{c_int, c_void};
use std::hash::BuildHasherDefault;
use std::sync::OnceLock;

use super::encode::AddressHasher;
use crate::lua::{self, lua_State};

/// What Lua says, in every version, when it has no memory.
pub const NO_MEMORY: &[u8] = b"not enough memory";

/// Kinds of names: the first byte.
const STANDARD: u8 = b's';
const MODULE: u8 = b'm';

/// What one state knows by name.
pub struct Names {
    tables: Tables,
    /// Addresses of named values, a filter before the weak table is asked: first those that are not mere
    /// data, then all.
    live: Addresses,
    all: Addresses,
    /// Of `package.loaded` when it was last scanned.
    fingerprint: u64,
}

type Addresses = HashSet<*const c_void, BuildHasherDefault<AddressHasher>>;

/// Registry references.
#[derive(Clone, Copy)]
pub struct Tables {
    /// Value to name, weak keys.
    by_value: c_int,
    /// Name to value, of the standard library only.
    standard: c_int,
}

/// Creates the tables and notes the standard library of the state. May raise.
pub unsafe fn new_tables(state: *mut lua_State) -> Tables {
    // SAFETY: balanced, ten slots.
    unsafe {
        lua::lua_createtable(state, 0, 64);
        lua::lua_createtable(state, 0, 1);
        lua::lua_pushliteral(state, c"k");
        lua::lua_setfield(state, -2, c"__mode".as_ptr());
        lua::lua_setmetatable(state, -2);
        let by_value = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
        lua::lua_createtable(state, 0, 256);
        let top = lua::lua_gettop(state);
        let fresh = fresh();
        each_value(state, |state, name| {
            // A library among the globals has its name as a module; another table in its place has none.
            let global_table = name.is_global() && lua::lua_type(state, -1) == lua::LUA_TTABLE;
            if !global_table && fresh.get(name.bytes()) == Some(&identity(state, -1)) {
                lua::push_bytes(state, name.bytes());
                lua::lua_pushvalue(state, -2);
                lua::lua_rawset(state, top);
            }
        });
        let standard = lua::luaL_ref(state, lua::LUA_REGISTRYINDEX);
        Tables { by_value, standard }
    }
}

impl Names {
    pub fn new(tables: Tables) -> Names {
        Names { tables, live: Addresses::default(), all: Addresses::default(), fingerprint: 0 }
    }

    /// Gives a value, by its registry reference, the same name in every state. May raise.
    ///
    /// # Safety
    /// Three stack slots are free.
    pub unsafe fn register(&mut self, state: *mut lua_State, name: &[u8], reference: c_int) {
        // SAFETY: balanced.
        unsafe {
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, self.tables.standard.into());
            lua::push_bytes(state, name);
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, reference.into());
            lua::lua_rawset(state, -3);
            lua::lua_pop(state, 1);
        }
        self.fingerprint = 0;
    }

    /// Looks whether `package.loaded` has changed, and if so scans it again: then `true`. May raise.
    ///
    /// # Safety
    /// Ten stack slots are free.
    pub unsafe fn refresh(&mut self, state: *mut lua_State) -> bool {
        // SAFETY: balanced.
        unsafe {
            let now = fingerprint(state);
            let changed = now != self.fingerprint;
            if changed {
                self.scan(state);
                self.fingerprint = now;
            }
            changed
        }
    }

    /// Scans, whether or not the list of modules has changed: a field may be new. May raise.
    ///
    /// # Safety
    /// Ten stack slots are free.
    pub unsafe fn scan(&mut self, state: *mut lua_State) {
        let fresh = fresh();
        // SAFETY: balanced. The set is ours and holds addresses only.
        unsafe {
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, self.tables.by_value.into());
            let by_value = lua::lua_gettop(state);
            // Until it is done it has not been done: an error on the way must not pass for a scan.
            self.fingerprint = 0;
            let (live, all): (*mut Addresses, *mut Addresses) = (&mut self.live, &mut self.all);
            (*live).clear();
            (*all).clear();
            let name_it = |state, kind: u8, name: &[u8]| {
                let address = lua::lua_topointer(state, -1);
                if (*all).insert(address) {
                    if !is_mere_data(state) {
                        (*live).insert(address);
                    }
                    lua::lua_pushvalue(state, -1);
                    lua::push_bytes(state, &[kind]);
                    lua::push_bytes(state, name);
                    lua::lua_concat(state, 2);
                    lua::lua_rawset(state, by_value);
                }
            };
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, self.tables.standard.into());
            lua::lua_pushnil(state);
            while lua::lua_next(state, -2) != 0 {
                name_it(state, STANDARD, lua::bytes_at(state, -2));
                lua::lua_pop(state, 1);
            }
            lua::lua_pop(state, 1);
            each_value(state, |state, name| {
                // What is new in the standard library or among the globals travels as itself.
                if !name.is_standard(fresh) {
                    name_it(state, MODULE, name.bytes());
                }
            });
            lua::lua_pop(state, 1);
        }
    }

    /// Pushes the name of the value at `index`, a string, if it has one; of tables that are mere data only
    /// with `data`. Raises nothing.
    ///
    /// # Safety
    /// Two stack slots are free and the index is absolute.
    #[inline]
    pub unsafe fn push_name(&self, state: *mut lua_State, index: c_int, data: bool) -> bool {
        // SAFETY: leaves one value, or none.
        unsafe {
            let known = if data { &self.all } else { &self.live };
            if !known.contains(&lua::lua_topointer(state, index)) {
                return false;
            }
            lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, self.tables.by_value.into());
            lua::lua_pushvalue(state, index);
            lua::lua_rawget(state, -2);
            lua::lua_remove(state, -2);
            if lua::lua_type(state, -1) == lua::LUA_TSTRING {
                return true;
            }
            lua::lua_pop(state, 1);
            false
        }
    }

    /// What is needed to find values; a copy, since finding them may run a module's code.
    pub fn tables(&self) -> Tables {
        self.tables
    }
}

impl Tables {
    /// Pushes the value of that name, or else a string that says why not. May raise; runs `require`.
    ///
    /// # Safety
    /// Six stack slots are free.
    pub unsafe fn push_value(self, state: *mut lua_State, name: &[u8]) -> bool {
        let Some((kind, name)) = name.split_first() else { return unknown(state, b"") };
        // SAFETY: leaves one value.
        unsafe {
            if *kind == STANDARD {
                lua::lua_rawgeti(state, lua::LUA_REGISTRYINDEX, self.standard.into());
                lua::push_bytes(state, name);
                lua::lua_rawget(state, -2);
                lua::lua_remove(state, -2);
                if lua::lua_isnil(state, -1) == 0 {
                    return true;
                }
                lua::lua_pop(state, 1);
                return unknown(state, name);
            }
            let mut parts = name.splitn(2, |byte| *byte == 0);
            let (module, field) = (parts.next().unwrap_or_default(), parts.next());
            if !self.require(state, module) {
                return false;
            }
            let Some(field) = field else { return true };
            if lua::lua_istable(state, -1) != 0 {
                lua::push_bytes(state, field);
                lua::lua_rawget(state, -2);
                lua::lua_remove(state, -2);
                if lua::lua_isnil(state, -1) == 0 {
                    return true;
                }
            }
            lua::lua_pop(state, 1);
            unknown(state, name)
        }
    }

    /// Pushes a module, or else the message of the `require` that failed.
    unsafe fn require(self, state: *mut lua_State, module: &[u8]) -> bool {
        // SAFETY: leaves one value.
        unsafe {
            lua::lua_getfield(state, lua::LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
            lua::push_bytes(state, module);
            lua::lua_rawget(state, -2);
            lua::lua_remove(state, -2);
            // On 5.1 a light userdata marks a module that is being loaded.
            if lua::lua_type(state, -1) > lua::LUA_TLIGHTUSERDATA {
                return true;
            }
            lua::lua_pop(state, 1);
            if !self.push_value(state, b"s_G\0require") {
                return false;
            }
            lua::push_bytes(state, module);
            if lua::lua_pcall(state, 1, 1, 0) == lua::LUA_OK {
                return true;
            }
            let no_memory = lua::bytes_at(state, -1) == NO_MEMORY;
            // On 5.1 the mark stays after an error, and would make the next attempt fail for another reason.
            lua::lua_getfield(state, lua::LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
            lua::push_bytes(state, module);
            lua::lua_rawget(state, -2);
            if lua::lua_type(state, -1) == lua::LUA_TLIGHTUSERDATA {
                lua::push_bytes(state, module);
                lua::lua_pushnil(state);
                lua::lua_rawset(state, -4);
            }
            lua::lua_pop(state, 2);
            if no_memory {
                return false;
            }
            lua::lua_pushliteral(state, c"module '");
            lua::push_bytes(state, module);
            lua::lua_pushliteral(state, c"' cannot be loaded here: ");
            lua::luaL_tolstring(state, -4, std::ptr::null_mut());
            lua::lua_concat(state, 4);
            lua::lua_remove(state, -2);
            false
        }
    }
}

/// Pushes a message for a name that means nothing here.
fn unknown(state: *mut lua_State, name: &[u8]) -> bool {
    let mut parts = name.splitn(2, |byte| *byte == 0);
    // SAFETY: leaves one string.
    unsafe {
        lua::lua_pushliteral(state, c"there is no '");
        lua::push_bytes(state, parts.next().unwrap_or_default());
        let field = parts.next();
        lua::lua_pushliteral(state, if field.is_some() { c"." } else { c"" });
        lua::push_bytes(state, field.unwrap_or_default());
        lua::lua_pushliteral(state, c"' here");
        lua::lua_concat(state, 5);
    }
    false
}

/// The name of a value while a scan looks at it: bytes of Lua strings that are on the stack meanwhile,
/// joined in a buffer that needs no dropping.
struct Name {
    buffer: [u8; 256],
    length: usize,
    module: usize,
}

impl Name {
    fn new(module: &[u8], field: Option<&[u8]>) -> Option<Name> {
        let mut name = Name { buffer: [0; 256], length: 0, module: module.len() };
        let whole = module.len() + field.map_or(0, |field| field.len() + 1);
        if whole > name.buffer.len() || module.contains(&0) {
            return None;
        }
        name.buffer[..module.len()].copy_from_slice(module);
        if let Some(field) = field {
            name.buffer[module.len() + 1..whole].copy_from_slice(field);
        }
        name.length = whole;
        Some(name)
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Whether this is a field of `_G`.
    fn is_global(&self) -> bool {
        self.length > self.module && &self.buffer[..self.module] == b"_G"
    }

    fn is_standard(&self, fresh: &Fresh) -> bool {
        fresh.contains_key(&self.buffer[..self.module])
    }
}

/// Whether the value on top is a table with neither a metatable nor a function in it. Never raises.
unsafe fn is_mere_data(state: *mut lua_State) -> bool {
    // SAFETY: balanced; the table is not changed meanwhile.
    unsafe {
        if lua::lua_type(state, -1) != lua::LUA_TTABLE {
            return false;
        }
        if lua::lua_getmetatable(state, -1) != 0 {
            lua::lua_pop(state, 1);
            return false;
        }
        lua::lua_pushnil(state);
        while lua::lua_next(state, -2) != 0 {
            let function = lua::lua_type(state, -1) == lua::LUA_TFUNCTION;
            lua::lua_pop(state, 1);
            if function {
                lua::lua_pop(state, 1);
                return false;
            }
        }
        true
    }
}

/// Whether values of this type can have a name.
fn nameable(kind: c_int) -> bool {
    matches!(kind, lua::LUA_TTABLE | lua::LUA_TFUNCTION | lua::LUA_TUSERDATA)
}

/// Calls `visit` with each module, then with each field of each module, on top of the stack. May raise.
unsafe fn each_value(state: *mut lua_State, mut visit: impl FnMut(*mut lua_State, &Name)) {
    // SAFETY: balanced; keys are strings by their type and stay on the stack while their bytes are used.
    // `visit` leaves the stack as it was, so the traversals see the tables unchanged.
    unsafe {
        lua::lua_getfield(state, lua::LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
        for fields in [false, true] {
            lua::lua_pushnil(state);
            while lua::lua_next(state, -2) != 0 {
                if lua::lua_type(state, -2) == lua::LUA_TSTRING {
                    let module = lua::bytes_at(state, -2);
                    if fields && lua::lua_type(state, -1) == lua::LUA_TTABLE {
                        lua::lua_pushnil(state);
                        while lua::lua_next(state, -2) != 0 {
                            if lua::lua_type(state, -2) == lua::LUA_TSTRING
                                && nameable(lua::lua_type(state, -1))
                                && let Some(name) = Name::new(module, Some(lua::bytes_at(state, -2)))
                            {
                                visit(state, &name);
                            }
                            lua::lua_pop(state, 1);
                        }
                    } else if !fields
                        && nameable(lua::lua_type(state, -1))
                        && let Some(name) = Name::new(module, None)
                    {
                        visit(state, &name);
                    }
                }
                lua::lua_pop(state, 1);
            }
        }
        lua::lua_pop(state, 1);
    }
}

/// A number that changes when a module comes, goes or is replaced. May raise memory errors only.
unsafe fn fingerprint(state: *mut lua_State) -> u64 {
    // SAFETY: balanced.
    unsafe {
        lua::lua_getfield(state, lua::LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
        let mut sum = 1u64;
        lua::lua_pushnil(state);
        while lua::lua_next(state, -2) != 0 {
            let value = lua::lua_topointer(state, -1) as u64;
            sum = sum.wrapping_add((value ^ 0x9e37_79b9).wrapping_mul(0xff51_afd7_ed55_8ccd));
            lua::lua_pop(state, 1);
        }
        lua::lua_pop(state, 1);
        sum
    }
}

/// The standard library as a fresh state has it: names, and what tells their values from others.
type Fresh = HashMap<Vec<u8>, Identity>;

/// The same in every state for the same part of the standard library.
#[derive(PartialEq, Eq)]
enum Identity {
    Table,
    CFunction(usize),
    /// LuaJIT's fast functions have no address of their own; `tostring` gives their number.
    Builtin(u64),
    Other,
}

/// May raise.
unsafe fn identity(state: *mut lua_State, index: c_int) -> Identity {
    // SAFETY: balanced.
    unsafe {
        if lua::lua_type(state, index) == lua::LUA_TTABLE {
            return Identity::Table;
        }
        if let Some(function) = lua::lua_tocfunction(state, index) {
            return Identity::CFunction(function as usize);
        }
        if lua::lua_type(state, index) != lua::LUA_TFUNCTION {
            return Identity::Other;
        }
        // By the state's own `tostring`: mlua's stand-in for `luaL_tolstring` on 5.1 shows an address.
        lua::lua_getfield(state, lua::LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
        lua::lua_getfield(state, -1, c"_G".as_ptr());
        lua::lua_getfield(state, -1, c"tostring".as_ptr());
        lua::lua_pushvalue(state, if index < 0 { index - 3 } else { index });
        lua::lua_call(state, 1, 1);
        let text = lua::bytes_at(state, -1);
        let number = text.strip_prefix(b"function: builtin#").map(|digits| {
            digits.iter().fold(0u64, |n, digit| n.wrapping_mul(10).wrapping_add(u64::from(*digit)))
        });
        lua::lua_pop(state, 3);
        number.map_or(Identity::Other, Identity::Builtin)
    }
}

fn fresh() -> &'static Fresh {
    static FRESH: OnceLock<Fresh> = OnceLock::new();
    FRESH.get_or_init(|| {
        let mut fresh = Fresh::new();
        // SAFETY: a state of our own, closed below. If memory runs out in it, its default panic function
        // ends the process, as Rust's allocator does on its side.
        unsafe {
            let state = lua::luaL_newstate();
            if state.is_null() {
                return fresh;
            }
            lua::luaL_openlibs(state);
            each_value(state, |state, name| {
                let identity = identity(state, -1);
                if identity != Identity::Other {
                    fresh.insert(name.bytes().to_vec(), identity);
                }
            });
            lua::lua_close(state);
        }
        fresh
    })
}

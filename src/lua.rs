//! The raw Lua API, and everything in which its versions differ: no other file has a `cfg` of a version.
//!
//! Raw, because each of these calls either never raises or is made where raising is harmless; the
//! comment of each function here says which.

use std::ffi::{CStr, c_int, c_void};

pub use mlua::ffi::*;

/// The most upvalues that every Lua here can make in one closure.
pub const MAX_FACTORY_CELLS: u8 = 60;

/// `LUA_GCISRUNNING`, which LuaJIT has too.
pub const GC_IS_RUNNING: c_int = 9;

/// What one state can do, asked once when the module is opened in it.
#[derive(Clone, Copy)]
pub struct Flavor {
    /// Upvalue cells have an identity and can be shared: everywhere but on PUC 5.1.
    pub cells: bool,
    /// A function that has run can be given other cells. Not on LuaJIT: its traces hold the values of upvalues
    /// that are never assigned as constants of the function object.
    pub renewable: bool,
    /// On PUC 5.1 and 5.2, where in a thread it counts calls that cannot be yielded across.
    #[cfg(any(feature = "lua51", feature = "lua52"))]
    pub counters: Option<usize>,
}

#[cfg(feature = "lua51")]
mod version {
    use super::*;
    use std::sync::OnceLock;

    type UpvalueId = unsafe extern "C-unwind" fn(*mut lua_State, c_int, c_int) -> *mut c_void;
    type UpvalueJoin = unsafe extern "C-unwind" fn(*mut lua_State, c_int, c_int, c_int, c_int);
    type IsYieldable = unsafe extern "C-unwind" fn(*mut lua_State) -> c_int;

    /// What LuaJIT has and PUC 5.1 has not. One build serves both, so these are looked up at run time;
    /// whether a state is LuaJIT's is asked of the state (`Flavor`), since the process may hold both.
    struct Extras {
        upvalue_id: UpvalueId,
        upvalue_join: UpvalueJoin,
        is_yieldable: IsYieldable,
    }

    fn extras() -> Option<&'static Extras> {
        static EXTRAS: OnceLock<Option<Extras>> = OnceLock::new();
        fn find(name: &CStr) -> Option<*mut c_void> {
            // SAFETY: a look-up by a terminated name; the result is checked.
            let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            (!symbol.is_null()).then_some(symbol)
        }
        EXTRAS
            .get_or_init(|| {
                let (id, join, may) =
                    (find(c"lua_upvalueid")?, find(c"lua_upvaluejoin")?, find(c"lua_isyieldable")?);
                // SAFETY: LuaJIT's lua.h declares these functions with exactly these types.
                unsafe {
                    Some(Extras {
                        upvalue_id: std::mem::transmute::<*mut c_void, UpvalueId>(id),
                        upvalue_join: std::mem::transmute::<*mut c_void, UpvalueJoin>(join),
                        is_yieldable: std::mem::transmute::<*mut c_void, IsYieldable>(may),
                    })
                }
            })
            .as_ref()
    }

    /// Raises nothing but memory errors. Leaves the stack as it was.
    pub unsafe fn flavor(state: *mut lua_State) -> Flavor {
        // SAFETY: pushes and pops two values; `package.loaded` is read raw from the registry.
        unsafe {
            lua_getfield(state, LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
            lua_pushliteral(state, c"jit");
            lua_rawget(state, -2);
            let jit = lua_istable(state, -1) != 0;
            lua_pop(state, 2);
            let counters = if jit { None } else { find_counters(state) };
            Flavor { cells: jit && extras().is_some(), renewable: false, counters }
        }
    }

    /// PUC 5.1 does not say whether a yield would work, but it compares two counters of C calls in the thread:
    /// those now, and those when it was resumed, side by side. The first grows by one a call, the second
    /// stays. `None` unless exactly one place behaves so.
    ///
    /// # Safety
    /// As for [`sample_calls`].
    unsafe fn find_counters(state: *mut lua_State) -> Option<usize> {
        // SAFETY: as the caller says.
        let [a, b, c] = unsafe { sample_calls(state)? };
        let counts = |n: &usize| {
            let (now, base) = (*n, *n + 1);
            let grows = b[now] == a[now].wrapping_add(1) && c[now] == a[now].wrapping_add(2);
            grows && a[now] == a[base] && b[base] == a[base] && c[base] == a[base]
        };
        let mut found = (0..WORDS - 1).filter(counts);
        found.next().filter(|_| found.next().is_none())
    }

    /// Never raises. For states whose flavor has cells.
    pub unsafe fn upvalue_id(state: *mut lua_State, function: c_int, n: c_int) -> *const c_void {
        // SAFETY: the caller's function and upvalue index are valid.
        extras().map_or(std::ptr::null(), |x| unsafe { (x.upvalue_id)(state, function, n) })
    }

    /// Never raises. For states whose flavor has cells.
    pub unsafe fn upvalue_join(state: *mut lua_State, to: c_int, n: c_int, from: c_int, m: c_int) {
        if let Some(x) = extras() {
            // SAFETY: the caller's functions and upvalue indices are valid.
            unsafe { (x.upvalue_join)(state, to, n, from, m) };
        }
    }

    /// Whether a yield would work now; `false` when in doubt.
    pub unsafe fn is_yieldable(state: *mut lua_State, flavor: Flavor) -> bool {
        match (extras(), flavor.counters) {
            // SAFETY: a LuaJIT state, as its flavor says.
            (Some(x), _) if flavor.cells => unsafe { (x.is_yieldable)(state) != 0 },
            // SAFETY: `find_counters` read these words of a thread of the same state.
            (_, Some(at)) => unsafe {
                let words = state.cast::<u16>();
                let main = lua_pushthread(state) == 1;
                lua_pop(state, 1);
                !main && *words.add(at) == *words.add(at + 1)
            },
            _ => false,
        }
    }

    /// Never raises: makes the globals of `from` those of the coroutine `to`, and drops its hooks.
    pub unsafe fn renew_thread(from: *mut lua_State, to: *mut lua_State) {
        // SAFETY: both are threads of one state, with a free slot each.
        unsafe {
            lua_pushvalue(from, LUA_GLOBALSINDEX);
            lua_xmove(from, to, 1);
            lua_replace(to, LUA_GLOBALSINDEX);
            // Asked first: on LuaJIT a hook is the state's, and setting one throws away what is being traced.
            if lua_gethook(to).is_some() {
                lua_sethook(to, None, 0, 0);
            }
        }
    }

    /// Closes nothing: these Lua have no to-be-closed variables.
    pub unsafe fn close_thread(_: *mut lua_State, _: *mut lua_State, _: c_int) {}

    /// A function's environment is a value of its own here, beside its upvalues.
    pub const HAS_FENV: bool = true;

    pub unsafe fn push_fenv(state: *mut lua_State, function: c_int) {
        // SAFETY: the caller's index is valid and has a slot free.
        unsafe { lua_getfenv(state, function) }
    }

    pub unsafe fn pop_fenv(state: *mut lua_State, function: c_int) {
        // SAFETY: the caller's index is valid and a table is on top.
        unsafe { lua_setfenv(state, function) };
    }

    /// Numbers are all floats.
    pub unsafe fn is_integer(_: *mut lua_State, _: c_int) -> bool {
        false
    }
}

#[cfg(not(feature = "lua51"))]
mod version {
    use super::*;

    /// Never raises.
    #[cfg(not(feature = "lua52"))]
    pub unsafe fn flavor(_: *mut lua_State) -> Flavor {
        Flavor { cells: true, renewable: true }
    }

    /// 5.2 does not say whether a yield would work, but its threads count the calls that cannot be yielded
    /// across: none in a fresh coroutine, one more in each nested C call. `None` unless exactly one place
    /// behaves so. May raise.
    #[cfg(feature = "lua52")]
    pub unsafe fn flavor(state: *mut lua_State) -> Flavor {
        // SAFETY: as the caller says.
        let samples = unsafe { sample_calls(state) };
        let counters = samples.and_then(|[a, b, c]| {
            let mut found = (0..WORDS).filter(|n| (a[*n], b[*n], c[*n]) == (0, 1, 2));
            found.next().filter(|_| found.next().is_none())
        });
        Flavor { cells: true, renewable: true, counters }
    }

    /// Never raises.
    pub unsafe fn upvalue_id(state: *mut lua_State, function: c_int, n: c_int) -> *const c_void {
        // SAFETY: the caller's function and upvalue index are valid.
        unsafe { lua_upvalueid(state, function, n) }
    }

    /// Never raises.
    pub unsafe fn upvalue_join(state: *mut lua_State, to: c_int, n: c_int, from: c_int, m: c_int) {
        // SAFETY: the caller's functions and upvalue indices are valid.
        unsafe { lua_upvaluejoin(state, to, n, from, m) }
    }

    /// Whether a yield would work now.
    #[cfg(not(feature = "lua52"))]
    pub unsafe fn is_yieldable(state: *mut lua_State, _: Flavor) -> bool {
        // SAFETY: a plain read.
        unsafe { lua_isyieldable(state) != 0 }
    }

    /// Whether a yield would work now; `false` when in doubt.
    #[cfg(feature = "lua52")]
    pub unsafe fn is_yieldable(state: *mut lua_State, flavor: Flavor) -> bool {
        // SAFETY: `flavor` read this word of a thread of the same state. The main thread's is never 0.
        flavor.counters.is_some_and(|at| unsafe { *state.cast::<u16>().add(at) == 0 })
    }

    /// Never raises: drops the hooks of a coroutine that is to be used again.
    pub unsafe fn renew_thread(_: *mut lua_State, to: *mut lua_State) {
        // SAFETY: a thread that does not run.
        unsafe { lua_sethook(to, None, 0, 0) };
    }

    /// Runs the to-be-closed variables of a coroutine that ended with an error, which is at `index` of `state`.
    /// An error of theirs takes its place.
    #[cfg(any(feature = "lua54", feature = "lua55"))]
    pub unsafe fn close_thread(state: *mut lua_State, thread: *mut lua_State, index: c_int) {
        // SAFETY: a thread of this state that is not running. The error goes back first, since some 5.4 read
        // it there; what is on the thread afterwards is the error that counts, if there is any.
        unsafe {
            lua_pushvalue(state, index);
            lua_xmove(state, thread, 1);
            #[cfg(feature = "lua54")]
            lua_resetthread(thread);
            #[cfg(feature = "lua55")]
            lua_closethread(thread, state);
            if lua_gettop(thread) > 0 {
                lua_xmove(thread, state, 1);
                lua_replace(state, index - 1);
            }
        }
    }

    /// Closes nothing: these Lua have no to-be-closed variables.
    #[cfg(any(feature = "lua52", feature = "lua53"))]
    pub unsafe fn close_thread(_: *mut lua_State, _: *mut lua_State, _: c_int) {}

    /// The environment is an ordinary upvalue.
    pub const HAS_FENV: bool = false;

    pub unsafe fn push_fenv(_: *mut lua_State, _: c_int) {}

    pub unsafe fn pop_fenv(_: *mut lua_State, _: c_int) {}

    /// Never raises.
    pub unsafe fn is_integer(state: *mut lua_State, index: c_int) -> bool {
        let _ = (state, index);
        #[cfg(feature = "lua52")]
        return false;
        // SAFETY: the caller's index is valid.
        #[cfg(not(feature = "lua52"))]
        return unsafe { lua_isinteger(state, index) != 0 };
    }
}

/// Words of a thread's memory that are looked at: less than any Lua allocates for one.
#[cfg(any(feature = "lua51", feature = "lua52"))]
const WORDS: usize = if size_of::<usize>() == 8 { 64 } else { 40 };

/// What a thread's memory looks like in three nested C calls.
#[cfg(any(feature = "lua51", feature = "lua52"))]
struct Samples {
    level: usize,
    words: [[u16; WORDS]; 3],
}

/// Runs a coroutine of three nested C calls and returns what its thread's memory looked like in each.
///
/// # Safety
/// `state` is a running thread of PUC Lua with five stack slots free. May raise.
#[cfg(any(feature = "lua51", feature = "lua52"))]
unsafe fn sample_calls(state: *mut lua_State) -> Option<[[u16; WORDS]; 3]> {
    let mut samples = Samples { level: 0, words: [[0; WORDS]; 3] };
    // SAFETY: the probe gets a pointer to this frame, which outlives the resume.
    unsafe {
        let thread = lua_newthread(state);
        lua_pushcfunction(thread, probe);
        lua_pushlightuserdata(thread, (&raw mut samples).cast());
        let mut count = 0;
        let status = lua_resume(thread, state, 1, &mut count);
        lua_pop(state, 1);
        (status == LUA_OK && samples.level == 3).then_some(samples.words)
    }
}

/// Notes the thread's words and calls itself, three levels in all.
#[cfg(any(feature = "lua51", feature = "lua52"))]
unsafe extern "C-unwind" fn probe(state: *mut lua_State) -> c_int {
    // SAFETY: `sample_calls` passes its samples; a thread is larger than what is read.
    unsafe {
        let samples = lua_touserdata(state, 1).cast::<Samples>();
        let level = (*samples).level;
        std::ptr::copy_nonoverlapping(state.cast(), (&raw mut (*samples).words[level]).cast::<u16>(), WORDS);
        (*samples).level += 1;
        if level < 2 {
            lua_pushcfunction(state, probe);
            lua_pushvalue(state, 1);
            lua_call(state, 1, 0);
        }
    }
    0
}

pub use version::*;

/// Pushes a string constant. May raise a memory error.
pub unsafe fn lua_pushliteral(state: *mut lua_State, text: &CStr) {
    // SAFETY: a terminated string.
    unsafe { lua_pushstring(state, text.as_ptr()) };
}

/// Pushes bytes as a string. May raise a memory error.
pub unsafe fn push_bytes(state: *mut lua_State, bytes: &[u8]) {
    // SAFETY: the slice is valid for the call.
    unsafe { lua_pushlstring(state, bytes.as_ptr().cast(), bytes.len()) };
}

/// The bytes of a value that *is* a string; an empty slice for any other. Never raises, converts nothing.
///
/// # Safety
/// The slice lives as long as the string stays reachable in its state.
pub unsafe fn bytes_at<'a>(state: *mut lua_State, index: c_int) -> &'a [u8] {
    // SAFETY: only for strings, where `lua_tolstring` neither converts nor raises.
    unsafe {
        if lua_type(state, index) != LUA_TSTRING {
            return &[];
        }
        let mut length = 0;
        let text = lua_tolstring(state, index, &mut length);
        std::slice::from_raw_parts(text.cast(), length)
    }
}

/// Adds a field to the table on top. May raise a memory error.
pub unsafe fn set_function(state: *mut lua_State, name: &CStr, function: lua_CFunction, upvalue: c_int) {
    // SAFETY: a table is on top; `upvalue` is an absolute index.
    unsafe {
        lua_pushliteral(state, name);
        lua_pushvalue(state, upvalue);
        lua_pushcclosure(state, function, 1);
        lua_rawset(state, -3);
    }
}

/// Runs closures in protected mode: a registry reference to the C function that calls them. A reference,
/// because pushing a C function allocates on 5.1, and so may raise where nothing catches it.
#[derive(Clone, Copy)]
pub struct Protect(c_int);

impl Protect {
    /// Prepares a state. May raise.
    ///
    /// # Safety
    /// `state` has a stack slot free.
    pub unsafe fn new(state: *mut lua_State) -> Protect {
        // SAFETY: balanced.
        unsafe {
            lua_pushcfunction(state, trampoline);
            Protect(luaL_ref(state, LUA_REGISTRYINDEX))
        }
    }

    /// Calls `body`, which may raise and therefore owns nothing that needs dropping; its arguments are the
    /// `arguments` values on top, from index 2 on, and it returns how many values it leaves. Returns Lua's
    /// status; unless that is `LUA_OK` the error value is on top.
    ///
    /// # Safety
    /// `state` is the running thread of the state it was made for, with five stack slots free.
    pub unsafe fn call(
        self,
        state: *mut lua_State,
        arguments: c_int,
        mut body: impl FnMut(*mut lua_State) -> c_int,
    ) -> c_int {
        let mut body: &mut dyn FnMut(*mut lua_State) -> c_int = &mut body;
        // SAFETY: the trampoline gets a pointer to `body`, which lives until the call has returned.
        unsafe {
            lua_rawgeti(state, LUA_REGISTRYINDEX, self.0.into());
            lua_pushlightuserdata(state, (&raw mut body).cast());
            lua_insert(state, -(arguments + 2));
            lua_insert(state, -(arguments + 2));
            lua_pcall(state, arguments + 1, LUA_MULTRET, 0)
        }
    }
}

unsafe extern "C-unwind" fn trampoline(state: *mut lua_State) -> c_int {
    // SAFETY: `Protect::call` passes a pointer to a live reference.
    unsafe {
        let body = lua_touserdata(state, 1).cast::<&mut dyn FnMut(*mut lua_State) -> c_int>();
        (*body)(state)
    }
}

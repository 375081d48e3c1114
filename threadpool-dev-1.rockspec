rockspec_format = "3.0"
package = "threadpool"
version = "dev-1"

-- A dev rock is made from a checkout: `luarocks make`.
source = { url = "git+file://." }

description = {
    summary = "Pools of OS threads: a closure runs in a worker and its results come back",
    detailed = [[
Each worker thread owns an isolated Lua state. A closure, with everything it captures, is moved to a worker, runs
there, and its results come back: by suspending only the calling coroutine under an event loop, by blocking in a
plain script, or through a completion. Building needs a Rust toolchain.]],
    license = "MIT",
    labels = { "threads", "async", "concurrency" },
}

dependencies = { "lua >= 5.1, < 5.6" }

build = {
    type = "make",
    build_target = "build",
    install_target = "install",
    -- The Makefile asks LUA for its version: luarocks has no variable for it. CFLAGS only keeps luarocks from warning.
    build_variables = { LUA = "$(LUA)", CFLAGS = "$(CFLAGS)" },
    install_variables = {
        LUA = "$(LUA)",
        INST_LIBDIR = "$(LIBDIR)",
        INST_LUADIR = "$(LUADIR)",
        EXT = "$(LIB_EXTENSION)",
    },
}

test = { type = "command", command = "make test" }

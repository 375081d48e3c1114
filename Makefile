# make demo and make test work on a bare Debian: each target first installs what it lacks (scripts/setup.sh).
# LUA=lua5.4 (a name or a path) restricts any target to one interpreter; luarocks builds and installs that way.

CARGO ?= cargo
export CARGO

.DEFAULT_GOAL := build
.PHONY: build install test lint demo bench valgrind fuzz clean

# build/<abi>/threadpool.so for every Lua on this machine; one build serves Lua 5.1 and LuaJIT.
build:
	@scripts/build.sh

# Into INST_LIBDIR and INST_LUADIR for one LUA; luarocks gives all three.
install:
	@scripts/install.sh

# Layers 0 to 2 without any Lua, damaged packets, then every spec on every interpreter. ARGS goes to busted.
test:
	@scripts/setup.sh test
	@scripts/build.sh
	$(CARGO) test --locked
	for abi in 51 54; do $(CARGO) test --locked --features lua$$abi,vendored,fuzzing --test packets || exit; done
	@scripts/spec.sh $(ARGS)

# rustfmt, clippy, luacheck, and who may name whom.
lint:
	@scripts/setup.sh lint
	@scripts/lint.sh

# Hashes a real directory, serially and in pools: DEMO_DIR=... for another one.
demo:
	@scripts/setup.sh demo
	@scripts/demo.sh $(DEMO_DIR)

# Side by side with luv's work queue.
bench:
	@scripts/setup.sh bench
	@scripts/build.sh
	@benches/run.sh

# Memcheck over the specs on Lua 5.4.
valgrind:
	@scripts/setup.sh valgrind
	@LUA=lua5.4 scripts/build.sh
	@scripts/memcheck.sh $(ARGS)

# Looks for packets that crash the decoder, or cost it too much, for SECONDS each target of fuzz/.
SECONDS ?= 600
fuzz:
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh $(SECONDS) $(ARGS)

clean:
	rm -rf build target fuzz/target

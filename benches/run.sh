#!/usr/bin/env bash
# run.sh: the benchmarks on Lua 5.4 and on LuaJIT, or on LUA alone. Ratios count: figures move with the machine.
set -euo pipefail
cd "$(dirname "$0")/.."

# libuv reads it once, before its first task; ours is threadpool.fixed(2).
export UV_THREADPOOL_SIZE=2

list=$(LUA=${LUA:-lua5.4 luajit} scripts/luas.sh)
while read -r path _ name; do
    echo "== $name ($path), $(nproc 2>/dev/null || echo '?') processors"
    scripts/lua.sh "$path" benches/luv.lua </dev/null
    scripts/lua.sh "$path" benches/records.lua </dev/null
done <<<"$list"

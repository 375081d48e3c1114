#!/usr/bin/env bash
# luas.sh: the Lua interpreters of this machine, one "path abi name" a line; with LUA set, only that one.
# The abi is the version's digits: 51 for Lua 5.1 and for LuaJIT, which share one build.
set -euo pipefail

identify='
local version = _VERSION:match("%d+%.%d+")
io.write((version:gsub("%D", "")), " ", rawget(_G, "jit") and jit.version:match("%S+ %d+%.%d+") or _VERSION)'

seen='|'
for lua in ${LUA:-lua5.1 lua5.2 lua5.3 lua5.4 lua5.5 luajit lua}; do
    path=$(command -v "$lua") || continue
    id=$("$path" -e "$identify" 2>/dev/null) || continue
    # A plain `lua` is most often one of the others once more.
    [[ $seen == *"|$id|"* ]] && continue
    seen+="$id|"
    echo "$path $id"
done

if [[ $seen == '|' ]]; then
    echo "no Lua found (looked for ${LUA:-lua5.1 to lua5.5, luajit, lua}); scripts/setup.sh test installs them on Debian" >&2
    exit 1
fi

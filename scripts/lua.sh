#!/usr/bin/env bash
# lua.sh INTERPRETER ARGS...: runs it with the module of this checkout on its path.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

read -r path abi _ < <(LUA=${1:?lua.sh INTERPRETER ARGS...} "$root/scripts/luas.sh")
shift
# The versioned variables would win over the plain ones.
version=${abi:0:1}_${abi:1}
unset "LUA_PATH_$version" "LUA_CPATH_$version"
export LUA_PATH="$root/lua/?.lua;$root/lua/?/init.lua;${LUA_PATH-};" LUA_CPATH="$root/build/$abi/?.so;${LUA_CPATH-};"
exec "$path" "$@"

#!/usr/bin/env bash
# install.sh: what `make build` made for LUA, into INST_LIBDIR and INST_LUADIR (luarocks sets all three).
# Without them: PREFIX (/usr/local), where a stock Lua looks.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${LUA:?say for which one: make install LUA=lua5.4}"
read -r _ abi _ < <(scripts/luas.sh)
version=${abi:0:1}.${abi:1}
libdir=${INST_LIBDIR:-${DESTDIR-}${PREFIX:-/usr/local}/lib/lua/$version}
luadir=${INST_LUADIR:-${DESTDIR-}${PREFIX:-/usr/local}/share/lua/$version}

mkdir -p "$libdir" "$luadir/threadpool"
install -m 755 "build/$abi/threadpool.so" "$libdir/threadpool.${EXT:-so}"
cp -R lua/threadpool/. "$luadir/threadpool/"

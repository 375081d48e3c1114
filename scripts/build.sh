#!/usr/bin/env bash
# build.sh: the module as build/<abi>/threadpool.so for every Lua found, or for LUA alone.
# Each ABI has its own target folder: in a shared one they would rebuild and overwrite each other.
set -euo pipefail
cd "$(dirname "$0")/.."

for abi in $(scripts/luas.sh | awk '{ print $2 }' | sort -u); do
    echo "== building build/$abi/threadpool.so"
    ${CARGO:-cargo} build --release --locked --lib --features "module,lua$abi" --target-dir "target/lua$abi"
    mkdir -p "build/$abi"
    # Lua looks for .so on macOS too. Moved, not copied: a running program keeps the file that it has mapped.
    for lib in "target/lua$abi"/release/libthreadpool.{so,dylib}; do
        if [[ -e $lib ]] && ! cmp -s "$lib" "build/$abi/threadpool.so"; then
            cp "$lib" "build/$abi/.threadpool.$$" && mv "build/$abi/.threadpool.$$" "build/$abi/threadpool.so"
        fi
    done
done
[[ -n ${abi-} ]] # no Lua found: luas.sh has said so

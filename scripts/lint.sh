#!/usr/bin/env bash
# lint.sh: every static check. Goes on after a failure, fails at the end.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

cargo() { command "${CARGO:-cargo}" "$@"; }
status=0
check() { echo "== $1"; shift; "$@" || status=1; }

# luacheck takes a rockspec's name for a list of files to check, hence its text.
rockspecs() {
    local file
    for file in *.rockspec rockspecs/*.rockspec; do
        [[ ! -e $file ]] || luacheck --quiet --std rockspec --filename "$file" - <"$file" || return 1
    done
}
lua=()
for dir in lua src spec examples benches; do [[ ! -d $dir ]] || lua+=("$dir"); done

check rustfmt cargo fmt --check
check "clippy without Lua" cargo clippy --locked --all-targets --quiet -- -D warnings
for abi in 51 54; do
    check "clippy for Lua ${abi:0:1}.${abi:1}" \
        cargo clippy --locked --all-targets --quiet --features "module,lua$abi" -- -D warnings
done
check "clippy for the fuzz targets" \
    cargo clippy --locked --all-targets --quiet --features lua54,vendored,fuzzing -- -D warnings
check luacheck luacheck --quiet "${lua[@]}"
check rockspecs rockspecs
check layers scripts/layers.sh
exit $status

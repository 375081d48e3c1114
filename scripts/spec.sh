#!/usr/bin/env bash
# spec.sh [BUSTED ARGS...]: the specs on every Lua found, or on LUA alone. Goes on after a failure, fails at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

# A spec that hangs must fail, with every process that it started; at a terminal Ctrl-C must reach them instead.
limit() {
    if command -v timeout >/dev/null && [[ ! -t 2 ]]; then timeout -k 10 "${SPEC_TIMEOUT:-900}" "$@"; else "$@"; fi
}

list=$(scripts/luas.sh)
passed="" failed=""
while read -r path abi name; do
    echo "== specs on $name ($path)"
    status=0
    limit busted --lua="$path" --cpath="build/$abi/?.so" "$@" </dev/null || status=$?
    if ((status == 0)); then passed+="$name, "; else failed+="$name (status $status), "; fi
done <<<"$list"

passed=${passed%, } failed=${failed%, }
echo "== specs passed on: ${passed:-none}; failed on: ${failed:-none}"
[[ -z $failed ]]

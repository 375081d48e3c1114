#!/usr/bin/env bash
# fuzz.sh SECONDS [TARGET...]: each target of fuzz/ for so long, from real packets and the inputs in fuzz/corpus.
# What it learns stays in target/fuzz, an input that fails in fuzz/artifacts. Fails with the first that does.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?fuzz.sh SECONDS [TARGET...]}
shift
(($#)) || set -- wire packet

# The Lua in the targets checks its callers, itself and its memory. A folder of its own, since cargo does not
# notice when these change.
export CFLAGS="-DLUAI_ASSERT -DLUA_USE_APICHECK -fsanitize=address -fno-omit-frame-pointer -g ${CFLAGS-}"
for target in "$@"; do
    learned=$PWD/target/fuzz/$target
    mkdir -p "$learned"
    echo "== fuzzing $target for $seconds s"
    FUZZ_SEEDS=$learned ${CARGO:-cargo} +nightly fuzz run --target-dir fuzz/target/checked "$target" \
        "$learned" "fuzz/corpus/$target" -- -max_total_time="$seconds" -max_len=4096 -timeout=10 -malloc_limit_mb=256 \
        -verbosity=0 -print_funcs=0 -print_final_stats=1
done

#!/usr/bin/env bash
# memcheck.sh [BUSTED ARGS...]: the specs on Lua 5.4 under valgrind, in one process. Any error or definite loss fails.
# Programs that specs start run outside it, and what measures time or installs is left out (#timing, #install).
set -euo pipefail
cd "$(dirname "$0")/.."

echo "== memcheck on Lua 5.4 (the specs' time limits are ten times longer)"
# --lua would make busted start another process; its main script is Lua, so Lua runs it.
TIMEOUT=${TIMEOUT:-100} exec valgrind --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
    --errors-for-leak-kinds=definite --num-callers=30 --fair-sched=try \
    lua5.4 "$(command -v busted)" --cpath='build/54/?.so' --exclude-tags=timing,install "$@" </dev/null

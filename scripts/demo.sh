#!/usr/bin/env bash
# demo.sh [DIR]: the main job on real files. Perl's base is in every Debian: some 600 files, 5 MB.
set -euo pipefail
cd "$(dirname "$0")/.."

# LUA when set, else Lua 5.4, else whatever Lua is there.
LUA=${LUA:-$(command -v lua5.4 || scripts/luas.sh | awk 'NR == 1 { print $1 }')}
export LUA
scripts/build.sh

dir=${1-}
for guess in /usr/lib/*/perl-base /usr/share/zoneinfo /usr/share/doc /usr/share; do
    [[ -z $dir && -d $guess ]] && dir=$guess
done
echo "== $LUA examples/hash_tree.lua $dir"
exec scripts/lua.sh "$LUA" examples/hash_tree.lua "$dir"

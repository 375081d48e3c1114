#!/usr/bin/env bash
# layers.sh: a file may name its own layer and those below it, and layers 0 to 2 never name mlua (docs/design.md).
# Prints each offending line with the rule it breaks. Comments do not count.
set -euo pipefail
cd "$(dirname "$0")/.."

find src -name '*.rs' -print0 | sort -z | xargs -0 awk '
BEGIN {
    split("error 0 sync 0 sys 0 codec 1 executor 2 completion 2 shared 2 lua 2.5 transfer 3 runtime 4 api 5 fuzzing 6", list, " ")
    for (i = 1; i in list; i += 2) rank[list[i]] = list[i + 1]
}

# src/<own>.rs and src/<own>/**: the layer is the first name; `up` is how many super:: lead to the crate root.
FNR == 1 {
    group = 0
    up = split(FILENAME, part, "/") - 1
    own = part[2]; sub(/\.rs$/, "", own)
    if (part[up + 1] == "mod.rs") up--
    root = (own == "lib")
    if (!root && !(own in rank)) offend(own " is in no layer: give it a rank in scripts/layers.sh")
}

function offend(rule) { printf "%s:%d: %s\n    %s\n", FILENAME, FNR, rule, $0; bad = 1 }

function refer(name) {
    if ((own in rank) && (name in rank) && rank[name] > rank[own])
        offend(own " (layer " rank[own] ") must not name " name " (layer " rank[name] ")")
}

# `crate::name`, `crate::{name::x, name}` over any number of lines, and super::super::name up to the root.
function scan(text,    token, path, i) {
    while (match(text, /[A-Za-z_][A-Za-z_0-9]*|::|[{},]|[^ \t]/)) {
        token = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        if (group) { # inside crate::{...}: names right after "{" or "," at depth 1 are top modules
            if (token == "{") group++
            else if (token == "}") group--
            else if (group == 1 && (last == "{" || last == ",")) refer(token)
        } else if (token == "{" && last2 == "crate" && last == "::") {
            group = 1
        } else if (last == "::" && last2 == "crate") {
            refer(token)
        } else if (last == "::" && last2 == "super" && token != "super" && supers == up) {
            refer(token)
        }
        if (token == "super") supers = (last == "::" && last2 == "super") ? supers + 1 : 1
        if (token == "mlua" && (own in rank) && rank[own] <= 2) offend(own " (layer " rank[own] ") must not name mlua")
        last2 = last; last = token
    }
}

{ text = $0; sub(/\/\/.*/, "", text); scan(text) }

END { exit bad }
'

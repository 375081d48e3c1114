#!/usr/bin/env bash
# setup.sh TARGET: what `make TARGET` needs and this machine lacks. Says what it installs before it does, and
# removes nothing. Where it cannot install it says exactly what is missing and what for, and fails only when the
# target is impossible without it.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

target=${1:?setup.sh test|demo|bench|lint|valgrind|fuzz}
cargo=${CARGO:-cargo}

# Each entry is a command, or what `have` knows; `package` and `purpose` say the rest.
luas="lua5.1 lua5.2 lua5.3 lua5.4 luajit" headers="lua5.1.h lua5.2.h lua5.3.h lua5.4.h"
[[ -z ${LUA-} ]] || luas="" headers=""
case $target in
    test) want="cc $luas busted luarocks $headers timeout luv" ;;
    demo) want="cc ${luas:+lua5.4}" ;;
    bench) want="cc ${luas:+lua5.4 luajit} luv cjson" ;;
    valgrind) want="cc lua5.4 busted valgrind" ;;
    lint) want="cc luacheck" ;;
    fuzz) want="cc c++" ;;
    *) echo "setup.sh: no such target: $target" >&2; exit 2 ;;
esac

have() {
    case $1 in
        lua*.h) ! command -v dpkg >/dev/null || [[ -e /usr/include/${1%.h}/lua.h ]] ;; # elsewhere is luarocks's business
        luv | cjson) "${LUA:-lua5.4}" -e "require '$1'" 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}
package() {
    case $1 in
        cc) echo gcc ;;
        c++) echo g++ ;;
        lua5.1.h) echo liblua5.1-0-dev ;;
        lua*.h) echo "lib${1%.h}-dev" ;;
        busted | luv | cjson) echo "lua-$1" ;;
        luacheck) echo lua-check ;;
        timeout) echo coreutils ;;
        *) echo "$1" ;;
    esac
}
purpose() {
    case $1 in
        cc) echo "links the module" ;;
        c++) echo "compiles libFuzzer" ;;
        lua*.h) echo "luarocks wants these headers, though the module does not" ;;
        lua5.* | luajit) echo "runs the module on $1" ;;
        busted) echo "runs the specs" ;;
        luarocks) echo "spec/install_spec.lua installs the rock" ;;
        luv) echo "watches the descriptor in the specs, and is the peer of the benchmarks" ;;
        cjson) echo "the measure of benches/records.lua" ;;
        luacheck) echo "checks the Lua files" ;;
        timeout) echo "ends a spec that hangs" ;;
        valgrind) echo "checks memory" ;;
    esac
}
missing() { local it; for it in $want; do have "$it" || echo "$it"; done; }

# Runs a command as root; asks for a password only at a terminal.
as_root() {
    if ((EUID == 0)); then "$@"
    elif [[ -t 0 && -z ${CI-} ]]; then sudo "$@"
    else sudo -n "$@"
    fi
}
# --no-remove: no package of ours is worth one of yours (some replace luajit by another build of it).
apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-remove \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null; }
known() { apt-cache policy "$1" 2>/dev/null | grep 'Candidate: [^(]' >/dev/null; }

install_missing() {
    local it wanted=() names=()
    for it in $(missing); do wanted+=("$(package "$it")"); done
    ((${#wanted[@]})) || return 0
    command -v apt-get >/dev/null || { echo "setup: no apt-get here, so nothing is installed" >&2; return; }
    if ((EUID != 0)) && ! command -v sudo >/dev/null; then
        echo "setup: neither root nor sudo, so nothing is installed" >&2
        return
    fi
    echo "setup: make $target installs with apt-get: ${wanted[*]}"
    for it in "${wanted[@]}"; do known "$it" || { apt update; break; }; done
    for it in "${wanted[@]}"; do if known "$it"; then names+=("$it"); fi; done
    ((${#names[@]})) || return 0
    # Once more after an update: the lists may be older than what the mirror still has.
    apt install --no-install-recommends "${names[@]}" ||
        { apt update && apt install --no-install-recommends "${names[@]}"; }
}

# The toolchain is never installed: Debian 12's own Rust is too old, and rustup is yours to choose.
need_rust() {
    local needs has
    needs=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    has=$($cargo --version 2>/dev/null | awk '{ print $2 }')
    if [[ $(printf '%s\n' "$needs" "${has:-0}" | sort -V | head -n 1) != "$needs" ]]; then
        echo "setup: missing: cargo, Rust $needs or newer (found: ${has:-none}); see https://rustup.rs" >&2
        exit 1
    fi
}
need_components() {
    local it wanted=()
    $cargo fmt --version >/dev/null 2>&1 || wanted+=(rustfmt)
    $cargo clippy --version >/dev/null 2>&1 || wanted+=(clippy)
    ((${#wanted[@]})) || return 0
    if command -v rustup >/dev/null; then
        echo "setup: make $target installs with rustup: ${wanted[*]}"
        rustup component add "${wanted[@]}" && return
    fi
    for it in "${wanted[@]}"; do echo "setup: missing: cargo ${it#rust} (Rust component $it): checks the Rust files" >&2; done
    exit 1
}

need_fuzzer() {
    if command -v rustup >/dev/null; then
        rustup toolchain list | grep -q ^nightly ||
            { echo "setup: make fuzz installs with rustup: nightly" && rustup toolchain install nightly --profile minimal; }
        $cargo fuzz --version >/dev/null 2>&1 ||
            { echo "setup: make fuzz installs with cargo: cargo-fuzz" && $cargo install --locked cargo-fuzz; }
    fi
    $cargo +nightly fuzz --version >/dev/null 2>&1 && return
    echo "setup: missing: a nightly toolchain of rustup, and cargo-fuzz: they build the fuzz targets" >&2
    exit 1
}

install_missing
fatal=0
for it in $(missing); do
    echo "setup: missing: $it (Debian package $(package "$it")): $(purpose "$it")" >&2
    # Other interpreters, and specs that need luarocks, are left out; without these there is nothing to run.
    case $it in cc | c++ | busted | luv | luacheck | valgrind) fatal=1 ;; esac
    [[ $target == valgrind ]] && fatal=1
done
need_rust
case $target in
    lint) need_components ;;
    fuzz) need_fuzzer ;;
    *) scripts/luas.sh >/dev/null || fatal=1 ;;
esac
((fatal == 0)) || { echo "setup: make $target cannot go on without what is missing" >&2; exit 1; }

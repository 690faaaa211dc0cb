#!/usr/bin/env bash
# Sets this checkout up: .venv with everything that training, conversion, evaluation and the tests need, and the
# sandbox that the evaluator runs programs in. Safe to run again at any time; when nothing is missing it takes a moment.
#
#   bash install.sh
#   bash install.sh --languages   also the compilers and runtimes of the five other languages of HumanEvalPack (as root,
#                                 on Debian and Ubuntu; elsewhere `python -m megatron_ft.evaluate doctor` names what to install)
#
#   PYTHON=python3.12          the interpreter to build .venv with (default: the first of python3, python3.14 ... that is new enough)
#   MEGATRON_FT_TORCH=SPEC     which torch to install, e.g. torch==2.13.0 (default: the one in .venv, else that)
#   CI=true                    a missing sandbox is a failure and not a note
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

DEFAULT_TORCH="torch==2.13.0"
STAMP=.venv/megatron_ft.stamp
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

languages=false
case "${1:-}" in
    "") ;;
    --languages) languages=true ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "install: error: unknown argument '$1'; it takes --languages only (see --help)" >&2; exit 2 ;;
esac

say() { echo "install: $*" >&2; }
fail() { say "error: $*"; exit 1; }

# pip draws a progress bar on a terminal; in a log its hundreds of lines would hide ours.
quiet() { [ -t 2 ] || echo --quiet; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
        if new_enough "$candidate"; then command -v "$candidate"; return; fi
    done
    fail "no Python 3.10 or newer found (python3 is: $(python3 --version 2>&1 || true)); install one, or name it: PYTHON=/path/to/python3.12 bash install.sh"
}

# System packages are the one thing outside the checkout; they are installed by root alone and never without a line.
apt_install() {
    local package=$1 reason=$2
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return 1; fi
    say "installing the system package $package with apt-get: $reason"
    apt_get_install "$package" || { apt-get update -qq && apt_get_install "$package"; }
}

apt_get_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" </dev/null >/dev/null
}

make_venv() {
    local python=$1
    if .venv/bin/python -m pip --version >/dev/null 2>&1; then return; fi
    if [ -e .venv ]; then say ".venv does not run (moved, or its Python is gone): building it anew"; fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then  # Debian and Ubuntu keep it in a package of its own
        local package
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        apt_install "$package" "Python's venv module, without which there is no .venv" \
            || fail "Python's venv module is missing; as root: apt-get install $package, then run this again"
    fi
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

install_torch() {
    local wanted=${MEGATRON_FT_TORCH:-}
    if [ -z "$wanted" ] && .venv/bin/python -c 'import torch' 2>/dev/null; then
        say "keeping the torch that is in .venv: $(.venv/bin/python -c 'import torch; print(torch.__version__)')"
        return
    fi
    wanted=${wanted:-$DEFAULT_TORCH}
    say "installing $wanted (hundreds of megabytes)"
    # shellcheck disable=SC2046
    .venv/bin/python -m pip install $(quiet) "$wanted"
}

install_package() {
    say "installing megatron_ft and what it needs (setup.py), with the developers' tools"
    # The constraint keeps the torch chosen above: a dependency must not swap it for another build.
    .venv/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >.venv/constraints.txt
    # shellcheck disable=SC2046
    .venv/bin/python -m pip install $(quiet) --constraint .venv/constraints.txt --editable '.[dev]'
    .venv/bin/python -W ignore -c 'import megatron.core, megatron_ft, pytest, tokenizers, torch, transformers'
}

# What the content of .venv follows from; the checkout's place counts because an editable install points to it.
fingerprint() {
    { cat setup.py; "$1" --version; pwd; echo "${MEGATRON_FT_TORCH:-}"; } | sha256sum | cut -d' ' -f1
}

is_complete() {
    [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$1" ] && .venv/bin/python -c '
import importlib.util, sys
sys.exit(not all(map(importlib.util.find_spec, ("megatron_ft", "megatron.core", "pytest", "torch", "transformers"))))
' 2>/dev/null
}

check_sandbox() {
    if command -v bwrap >/dev/null; then return; fi
    apt_install bubblewrap "the sandbox in which the evaluator runs the programs that a model writes" || true
    if .venv/bin/python -c 'from megatron_ft.evaluation import sandbox; sandbox.find()' 2>/dev/null; then
        command -v bwrap >/dev/null || say "bubblewrap is not installed; the evaluator's sandbox is unshare, which works here"
        return
    fi
    local missing="no sandbox works here: programs that a model writes cannot be run; as root: apt-get install bubblewrap"
    if [ "${CI:-}" = true ]; then fail "$missing"; fi
    say "note: $missing"
}

# Each line: what shows that a package is there (a command, or a file), and the package.
LANGUAGES='g++ g++
/usr/include/boost/any.hpp libboost-dev
/usr/include/openssl/md5.h libssl-dev
javac openjdk-17-jdk-headless
go golang-go
/usr/share/gocode/src/github.com/stretchr/testify golang-github-stretchr-testify-dev
node nodejs
npm npm
rustc rustc
/usr/share/cargo/registry/regex-1* librust-regex-dev
/usr/share/cargo/registry/md5-0* librust-md5-dev'

install_languages() {
    local sign package
    while read -r sign package; do
        # shellcheck disable=SC2086  # a pattern
        if command -v "$sign" >/dev/null || ls -d $sign >/dev/null 2>&1; then continue; fi
        apt_install "$package" "programs that a model writes are compiled and run with it" \
            || say "note: the package $package is missing; as root: apt-get install $package"
    done <<<"$LANGUAGES"
    if ! [ -e .venv/node_modules/js-md5 ] && command -v npm >/dev/null; then
        say "installing the npm package js-md5, which one of the problems uses"
        npm install --silent --no-audit --no-fund --prefix .venv js-md5@0.7.3 >/dev/null || say "note: js-md5 could not be installed"
    fi
    .venv/bin/python -m megatron_ft.evaluate doctor || if [ "${CI:-}" = true ]; then fail "a toolchain is missing, see above"; fi
}

python=$(find_python)
wanted=$(fingerprint "$python")
if is_complete "$wanted"; then
    say ".venv is complete"
else
    make_venv "$python"
    install_torch
    install_package
    echo "$wanted" >"$STAMP"
    say ".venv is ready"
fi
check_sandbox
if "$languages"; then install_languages; fi

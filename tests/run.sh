#!/usr/bin/env bash
# Sets the checkout up, then runs all tests, or those that the arguments name:
#
#   bash tests/run.sh
#   bash tests/run.sh tests/data -k pack
#
# Arguments go to pytest; the last line and the exit code are pytest's. Two files run at a time (-n 0: one), because many tests
# wait for processes of their own; a file's tests stay together, as they share what is slow to make.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash install.sh --languages

say() { echo "tests: $*" >&2; }

apt_get_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

has_slurm() {
    local name
    for name in munged slurmctld slurmd; do
        PATH=$PATH:/usr/sbin:/sbin type -P "$name" >/dev/null || return 1
    done
}

# Only the tests need these, so install.sh does not have them. Without them they skip; with CI=true they fail.
need() {
    local reason=$1
    shift
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return; fi
    say "installing the system packages $* with apt-get: $reason"
    apt_get_install "$@" || { apt-get update -qq && apt_get_install "$@"; } || say "note: they could not be installed"
}
has_slurm || need "tests/cluster starts a real SLURM" slurm-wlm munge
command -v chromium >/dev/null || need "a report's page is opened in a browser" chromium

# The tests start up to four processes themselves; more threads in each would only fight over the cores.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# No test may need the network: a library that tries to download fails at once.
export HF_HUB_OFFLINE=1
# No window may open: pictures are drawn into files.
export MPLBACKEND=Agg

exec .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10 --durations-min=5 "$@"

# What the scripts of this folder share. Each of them finds the checkout, sets `script` to its own name and `root` to the
# checkout, and sources this file. It gives them:
#
#   say fail usage require_job begin    messages, and what every job does first
#   python                              array: the command that runs python on one node, in the container if there is one
#   rank_python container               arrays: the same inside a step of srun, and srun's options for the container
#
# Written for bash 4.2, which is what old clusters have: there an empty array counts as unset.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # python is for the scripts, script and root are theirs

say() { echo "$script: $*" >&2; }
fail() { say "error: $*"; exit 2; }

# The comment at the top of the script.
usage() { sed -n '2,/^#SBATCH/{/^#SBATCH/d;/^set /q;s/^# \{0,1\}//;p}' "$0"; }

# Outside SLURM a script says how it is submitted, and does nothing else.
require_job() {
    if [ -n "${SLURM_JOB_ID:-}" ]; then return; fi
    usage >&2
    if [ -e "$root/slurm/site.env" ] && [ -z "${SBATCH_ACCOUNT:-}${SBATCH_PARTITION:-}" ]; then
        say "note: 'source slurm/site.env' before sbatch lets it know your account and partition"
    fi
    fail "this is no SLURM job; $1"
}

# Everything between the arguments and the work.
begin() {
    say "job ${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+ task $SLURM_ARRAY_TASK_ID} on" \
        "${SLURM_JOB_NODELIST:-${SLURMD_NODENAME:-$HOSTNAME}}, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date '+%F %T')"
    root=$(cd "$root" && pwd)
    read_site
    load_modules
    find_python
    set_environment
}

# What is exported before sbatch wins over the file: one job can differ from the site's habit.
read_site() {
    local exported
    if [ ! -e "$root/slurm/site.env" ]; then return; fi
    exported=$(export -p)
    # shellcheck source=/dev/null
    . "$root/slurm/site.env"
    eval "$(grep -E '^declare -x (MEGATRON_FT_[A-Z]+|SBATCH_[A-Z]+|NCCL_[A-Z_]+|GLOO_[A-Z_]+|OMP_NUM_THREADS)=' <<<"$exported" \
        | sed 's/^declare -x /export /')"
}

load_modules() {
    local profile modules=${MEGATRON_FT_MODULES:-}
    if [ -z "$modules" ]; then return; fi
    set +eu  # module functions of many sites stumble over both
    for profile in /etc/profile.d/{lmod,z00_lmod,modules}.sh; do
        # shellcheck source=/dev/null
        if ! command -v module >/dev/null && [ -r "$profile" ]; then . "$profile"; fi
    done
    command -v module >/dev/null || fail "MEGATRON_FT_MODULES: '$modules' cannot be loaded, this node has no 'module' command"
    # shellcheck disable=SC2086
    module load $modules || fail "MEGATRON_FT_MODULES: 'module load $modules' failed; see above"
    set -eu
}

find_python() {
    local image=${MEGATRON_FT_CONTAINER:-} bind=${MEGATRON_FT_BIND:-} interpreter=${MEGATRON_FT_PYTHON:-}
    container=(--mpi=none)  # no MPI is used, and some sites' default plugin refuses to start without its library
    case $image in
        '')
            if [ -z "$interpreter" ] && [ -x "$root/.venv/bin/python" ]; then interpreter=$root/.venv/bin/python; fi
            rank_python=("${interpreter:-python3}")
            command -v "${rank_python[0]}" >/dev/null || fail "MEGATRON_FT_PYTHON: there is no '${rank_python[0]}' on this node"
            python=("${rank_python[@]}") ;;
        *.sqsh)
            [ -e "$image" ] || fail "MEGATRON_FT_CONTAINER: there is no '$image' on this node; make it with 'enroot import'"
            # shellcheck disable=SC2001  # Pyxis wants pairs; the folders have the same names inside
            bind=$(sed 's/[^,][^,]*/&:&/g' <<<"$PWD,$root,$bind")
            container+=("--container-image=$image" "--container-mounts=${bind%,}" "--container-workdir=$PWD")
            rank_python=("${interpreter:-python3}")
            python=(srun --nodes=1 --ntasks=1 "${container[@]}" "${rank_python[@]}") ;;
        *)
            command -v apptainer >/dev/null || fail "MEGATRON_FT_CONTAINER: this node has no 'apptainer' command (a module?)"
            rank_python=(apptainer exec)
            if [ -e /dev/nvidiactl ]; then rank_python+=(--nv); fi  # the driver's libraries are the node's
            rank_python+=(--bind "$PWD" --bind "$root" ${bind:+--bind "$bind"} "$image" "${interpreter:-python3}")
            python=("${rank_python[@]}") ;;
    esac
}

set_environment() {
    # Compute nodes have no internet: a library that would download fails at once instead of waiting for a timeout.
    export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} HF_DATASETS_OFFLINE=${HF_DATASETS_OFFLINE:-1}
    export TRANSFORMERS_OFFLINE=${TRANSFORMERS_OFFLINE:-1}
    # One process per core or GPU does the work; threads in each would only fight over the cores.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MKL_NUM_THREADS=${MKL_NUM_THREADS:-1}
    export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
    export PYTHONUNBUFFERED=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
}

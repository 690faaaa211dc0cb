#!/usr/bin/env bash
# Tokenizes instruction data on many nodes: the tasks of a job array make one shard each, one job merges them.
#
#   job=$(sbatch --parsable --array=0-15 slurm/preprocess.sh --input 'data/*.jsonl' --output data/mix \
#         --tokenizer models/starcoderbase --template octocoder)
#   sbatch --dependency=afterok:$job slurm/preprocess.sh --merge --output data/mix
#
# After a failure submit both again: finished shards are left alone, interrupted ones go on where they were.
# The arguments are those of preprocess/tokenize_sft.py, without --shard and --workers, and:
#
#   --output PREFIX    the dataset; until they are merged, its shards are in PREFIX.parts
#   --shards N         how many shards there are, when the array is only some of them: --array=3,7 ... --shards 16
#   --merge            join the shards and remove them
#   --keep-parts       with --merge: do not remove them
#
# Paths are relative to where you submit; there the log is too: slurm-JOB_TASK.out, and slurm-JOB.out of the merge.
#
#SBATCH --job-name=preprocess
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
##SBATCH --partition=cpu
##SBATCH --account=my_project
set -euo pipefail

# ---- Your site: set these here, or export the names on the right before sbatch ----------------------------------------
MODULES=${MEGATRON_FT_MODULES:-}      # loaded first, as in "gcc/12.3 python/3.11"
PYTHON=${MEGATRON_FT_PYTHON:-}        # of a venv or conda environment, as in /project/envs/megatron_ft/bin/python
                                      # (default: .venv/bin/python of the checkout if it is there, else python3)
CONTAINER=${MEGATRON_FT_CONTAINER:-}  # Apptainer image, as in /project/images/megatron_ft.sif; PYTHON is then one inside it
BIND=${MEGATRON_FT_BIND:-}            # what the container sees besides the checkout and this folder, as in /scratch,/project
ROOT=${MEGATRON_FT_ROOT:-}            # the checkout (default: where the submitted script is)
# -----------------------------------------------------------------------------------------------------------------------
# No log name is set above, because SLURM's own is the only one that is right both in an array and out of it.

say() { echo "preprocess.sh: $*" >&2; }
fail() { say "error: $*"; exit 2; }
usage() { sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

is_checkout() { [ -n "$1" ] && [ -f "$1/preprocess/tokenize_sft.py" ]; }

# sbatch runs a copy of this file in a spool folder, so where the file is says nothing; SLURM knows what was submitted.
find_root() {
    local submitted candidate
    if [ -n "$ROOT" ]; then
        is_checkout "$ROOT" || fail "MEGATRON_FT_ROOT: there is no preprocess/tokenize_sft.py in '$ROOT'; name the checkout"
        return
    fi
    submitted=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null | sed -n '/^ *Command=/{s///p;q}') || true
    for candidate in "$(dirname "${BASH_SOURCE[0]}")/.." "${submitted%%/slurm/preprocess.sh*}" "${SLURM_SUBMIT_DIR:-}"; do
        if is_checkout "$candidate"; then ROOT=$(cd "$candidate" && pwd); return; fi
    done
    fail "the checkout was not found (submitted was '$submitted'); name it: export MEGATRON_FT_ROOT=/path/to/megatron_ft"
}

load_modules() {
    local profile
    if [ -z "$MODULES" ]; then return; fi
    set +eu  # module functions of many sites stumble over both
    for profile in /etc/profile.d/{lmod,z00_lmod,modules}.sh; do
        # shellcheck source=/dev/null
        if ! command -v module >/dev/null && [ -r "$profile" ]; then . "$profile"; fi
    done
    command -v module >/dev/null || fail "MEGATRON_FT_MODULES: '$MODULES' cannot be loaded, this node has no 'module' command"
    # shellcheck disable=SC2086
    module load $MODULES || fail "MEGATRON_FT_MODULES: 'module load $MODULES' failed; see above"
    set -eu
}

find_python() {
    if [ -n "$CONTAINER" ]; then
        command -v apptainer >/dev/null || fail "MEGATRON_FT_CONTAINER: this node has no 'apptainer' command (a module?)"
        python=(apptainer exec --bind "$PWD" --bind "$ROOT" ${BIND:+--bind "$BIND"} "$CONTAINER" "${PYTHON:-python3}")
        return
    fi
    if [ -z "$PYTHON" ] && [ -x "$ROOT/.venv/bin/python" ]; then PYTHON=$ROOT/.venv/bin/python; fi
    python=("${PYTHON:-python3}")
    command -v "${python[0]}" >/dev/null || fail "MEGATRON_FT_PYTHON: there is no '${python[0]}' on this node"
}

set_environment() {
    # Compute nodes have no internet: a library that would download fails at once instead of waiting for a timeout.
    export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} HF_DATASETS_OFFLINE=${HF_DATASETS_OFFLINE:-1}
    export TRANSFORMERS_OFFLINE=${TRANSFORMERS_OFFLINE:-1}
    # One process per core does the work; threads in each would only fight over the cores.
    export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
    export PYTHONUNBUFFERED=1 PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
}

# Sets `shards` if --shards has not. An array without --shards must be the whole: SLURM_ARRAY_TASK_COUNT is that of *this*
# submission, so one failed shard submitted again as --array=3 would otherwise count as 1 of 1, which is all the data.
count_shards() {
    local whole="--array=0-$((SLURM_ARRAY_TASK_COUNT - 1))"
    if [ -n "$shards" ]; then
        [[ $shards =~ ^[1-9][0-9]*$ ]] || fail "--shards: '$shards' is no number of shards"
        ((SLURM_ARRAY_TASK_MAX < shards)) \
            || fail "--shards: $shards shards are numbered 0 to $((shards - 1)), but the array goes to $SLURM_ARRAY_TASK_MAX"
        return
    fi
    # shellcheck disable=SC2153  # not a misspelling of TASK_ID
    ((SLURM_ARRAY_TASK_MIN == 0 && SLURM_ARRAY_TASK_MAX == SLURM_ARRAY_TASK_COUNT - 1)) \
        || fail "--array: $SLURM_ARRAY_TASK_COUNT tasks from $SLURM_ARRAY_TASK_MIN to $SLURM_ARRAY_TASK_MAX are not all" \
                "shards of a split; submit all of them ($whole), or say how many there are: --shards N"
    shards=$SLURM_ARRAY_TASK_COUNT
}

# Shards carry their number and how many there are in their names, so two splits of the data never mix.
require_one_split() {
    local path name
    for path in "$parts"/{,.}shard-[0-9]*-of-[0-9]*; do
        name=${path##*/} name=${name##*-of-} name=${name%%.*}
        if [ -e "$path" ] && [ "$name" != "$(printf %03d "$shards")" ]; then
            fail "--array: $parts holds shards of a split into $((10#$name)), not into $shards; submit them with" \
                 "--shards $((10#$name)), or remove $parts to begin anew"
        fi
    done
}

make_shard() {
    local index=$SLURM_ARRAY_TASK_ID name
    count_shards
    require_one_split
    printf -v name 'shard-%03d-of-%03d' "$index" "$shards"
    # tokenize_sft.py moves .json to its place as the last file, and removes its hidden folder after that.
    if [ -e "$parts/$name.json" ] && [ ! -e "$parts/.$name.partial" ]; then
        say "shard $index of $shards is finished already: $parts/$name"
        return
    fi
    if [ -e "$output.json" ]; then fail "--output: $output exists already; name another path or remove it first"; fi
    say "shard $index of $shards into $parts/$name"
    exec "${python[@]}" "$ROOT/preprocess/tokenize_sft.py" "${passed[@]}" --output "$parts/$name" --shard "$index/$shards" \
        --workers "${SLURM_CPUS_PER_TASK:-1}"
}

merge_shards() {
    local finished=("$parts"/shard-*-of-*.json)
    if [ ! -e "$parts/merged" ]; then
        [ -e "${finished[0]}" ] || fail "--merge: there is no finished shard in $parts; make them first: sbatch --array=..."
        say "merging ${#finished[@]} shards into $output"
        "${python[@]}" "$ROOT/preprocess/merge_datasets.py" --input "${finished[@]%.json}" --output "$output"
    fi
    if "$keep_parts"; then return; fi
    : >"$parts/merged"  # so that a merge which is requeued while it removes them knows that it has merged
    rm -f "$parts"/shard-*-of-*.{json,idx,bin}
    rm -f "$parts/merged"
    rmdir "$parts" || say "note: $parts stays, because there is something else in it"
}

merge=false keep_parts=false shards='' output='' passed=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --output=* | --shards=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        --output | --shards)
            [ -n "${2:-}" ] || fail "$1: needs a value"
            if [ "$1" = --output ]; then output=${2%/}; else shards=$2; fi
            shift 2 ;;
        --merge) merge=true; shift ;;
        --keep-parts) keep_parts=true; shift ;;
        --shard | --shard=*) fail "--shard: the task's number in the array is the shard; sbatch --array=0-15 makes 16" ;;
        --workers | --workers=*) fail "--workers: one for each core of the task; sbatch --cpus-per-task=N sets them" ;;
        *) passed+=("$1"); shift ;;
    esac
done

if [ -z "${SLURM_JOB_ID:-}" ]; then
    usage >&2
    fail "this is no SLURM job; submit it with sbatch as above, or run preprocess/tokenize_sft.py where you are"
fi
[ -n "$output" ] || fail "--output: is missing; name the PREFIX of the dataset"
parts=$output.parts
if "$merge"; then
    [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || fail "--merge: is one job and no array; submit it without --array"
    if [ ${#passed[@]} != 0 ]; then fail "--merge: takes --output and --keep-parts only, not ${passed[*]}"; fi
    if [ -n "$shards" ]; then fail "--shards: is for the array; --merge counts them itself"; fi
else
    [ -n "${SLURM_ARRAY_TASK_ID:-}" ] || fail "--array: this job is no array; submit it as sbatch --array=0-15 for 16 shards"
    if "$keep_parts"; then fail "--keep-parts: belongs to --merge"; fi
    [ ${#passed[@]} -gt 0 ] || fail "--input: is missing; give the arguments of preprocess/tokenize_sft.py"
fi

say "job ${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+ task $SLURM_ARRAY_TASK_ID} on ${SLURMD_NODENAME:-$HOSTNAME}," \
    "start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date '+%F %T')"
find_root
load_modules
find_python
set_environment
if "$merge"; then merge_shards; else make_shard; fi

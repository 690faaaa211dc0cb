# Work that the tasks of a job array share: `shards` pieces, the task's number is the piece's. Sourced after lib.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154  # parts, shards: the script's

# Sets `shards` if --shards has not. An array without --shards must be the whole: SLURM_ARRAY_TASK_COUNT is that of *this*
# submission, so one failed shard submitted again as --array=3 would otherwise count as 1 of 1, which is everything.
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

# Shards carry their number and how many there are in their names, so two splits never mix.
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

# Reads --output, --shards, --merge, --keep-parts and --help; what is left is in `passed`.
# The words after FORBIDDEN=WHY are refused with that reason.
read_arguments() {
    local forbidden=() rule
    while [ "$1" != -- ]; do forbidden+=("$1"); shift; done
    shift
    merge=false keep_parts=false shards='' output='' passed=()
    while [ $# -gt 0 ]; do
        for rule in "${forbidden[@]}"; do
            if [ "${1%%=*}" = "${rule%%=*}" ]; then fail "${rule/=/: }"; fi
        done
        case $1 in
            -h | --help) usage; exit 0 ;;
            --output=* | --shards=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
            --output | --shards)
                [ -n "${2:-}" ] || fail "$1: needs a value"
                if [ "$1" = --output ]; then output=${2%/}; else shards=$2; fi
                shift 2 ;;
            --merge) merge=true; shift ;;
            --keep-parts) keep_parts=true; shift ;;
            *) passed+=("$1"); shift ;;
        esac
    done
}

# Refuses arguments that do not fit the kind of job. INPUT is the option that an array's task cannot do without.
check_arguments() {
    local input=$1 command=$2
    [ -n "$output" ] || fail "--output: is missing; name what to make"
    parts=$output.parts
    if "$merge"; then
        [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || fail "--merge: is one job and no array; submit it without --array"
        if [ ${#passed[@]} != 0 ]; then fail "--merge: takes --output and --keep-parts only, not ${passed[*]}"; fi
        if [ -n "$shards" ]; then fail "--shards: is for the array; --merge counts them itself"; fi
        return
    fi
    [ -n "${SLURM_ARRAY_TASK_ID:-}" ] || fail "--array: this job is no array; submit it as sbatch --array=0-15 for 16 shards"
    if "$keep_parts"; then fail "--keep-parts: belongs to --merge"; fi
    [ ${#passed[@]} -gt 0 ] || fail "$input: is missing; give the arguments of $command"
}

# Removes `parts` with what the globs name. A merge that is requeued in the middle of it knows by "merged" that it has merged.
remove_parts() {
    if "$keep_parts"; then return; fi
    : >"$parts/merged"
    rm -rf "$@"
    rm -f "$parts/merged"
    rmdir "$parts" || say "note: $parts stays, because there is something else in it"
}

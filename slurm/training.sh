# A training run as a job that lives through time limits, preemption and dead nodes. Sourced after lib.sh, by finetune_*.sh.
#
# One srun task per GPU and no torchrun, because torchrun keeps SLURM's signals from the ranks.
# shellcheck shell=bash
# shellcheck disable=SC2154  # root, python, rank_python, container: of lib.sh

# The first line is run.dir, the rest the whole config.
READ_CONFIG='import sys
from megatron_ft import cli, config
def main():
    settings = config.read(sys.argv[1], sys.argv[2:])
    print(settings.run.dir)
    print(settings.to_toml())
cli.main(main)'

# Rank 0 and SLURM write to the job's log, every other rank to a file of its own. $0: folder; the rest: the command.
# shellcheck disable=SC2016  # each rank's shell fills it in
RANK='if [ "$SLURM_PROCID" != 0 ]; then exec >>"$0/rank-$(printf %04d "$SLURM_PROCID").log" 2>&1; fi; exec "$@"'

# train DEFAULT_CONFIG [CONFIG.toml] [section.field=value ...]
train() {
    local default=$1 config='' resolved run_dir logs code=0 told=0
    shift
    case ${1:-} in
        -h | --help) usage; exit 0 ;;
        *.toml) config=$1; shift ;;
    esac
    require_job "submit it with sbatch as above, or run 'torchrun ... -m megatron_ft.train' where you are (docs/training.md)"
    begin
    config=${config:-$root/$default}
    resolved=$("${python[@]}" -c "$READ_CONFIG" "$config" "$@") || exit
    run_dir=${resolved%%$'\n'*}
    logs=$run_dir/jobs/$SLURM_JOB_ID-$((${SLURM_RESTART_COUNT:-0} + 1))
    mkdir -p "$logs" || fail "run.dir: $run_dir cannot be written on $HOSTNAME; is its file system mounted there?"
    describe "$resolved" "$config" "$@" >"$logs/job.txt"
    printf '%s\n' "${resolved#*$'\n'}" >"$logs/config.toml"
    set_ranks_environment
    if [ "${MEGATRON_FT_PREFLIGHT:-on}" != off ]; then
        say "preflight of all nodes"
        on_every_gpu megatron_ft.preflight "$config" "$@" || code=$?
        case $code in
            0) ;;
            1 | 2) end_failed "$code" "the preflight says no, see above" ;;
            *) requeue_or_end ;;  # not its verdict: it was killed, or told to end
        esac
    fi
    say "training; the logs of ranks above 0 are in $logs"
    on_every_gpu megatron_ft.train "$config" "$@" || code=$?
    # After a node failure srun leaves with 0, too; but then SLURM has told this shell to end.
    if [ "$code" = 0 ] && [ "$told" = 0 ]; then say "done; the model is in $run_dir/checkpoints"; return; fi
    requeue_or_end
}

# What this start of the job ran, for whoever wants to do it again.
describe() {
    local resolved=$1
    shift
    echo "job: $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date '+%F %T')"
    echo "nodes: $SLURM_JOB_NODELIST"
    printf 'command: %s' "$script"
    printf ' %q' "$@"
    printf '\nrun.dir: %s\npython: %s\n' "${resolved%%$'\n'*}" "${rank_python[*]}"
    if git -C "$root" rev-parse HEAD >/dev/null 2>&1; then
        echo "commit: $(git -C "$root" rev-parse HEAD)"
        git -C "$root" status --short --untracked-files=no
        git -C "$root" diff HEAD
    else
        echo "commit: unknown, $root is no git checkout here"
    fi
}

set_ranks_environment() {
    # Containers have no scontrol to ask for the names behind node[1-8]; the port follows from the job's id in Python.
    if [ -z "${MASTER_ADDR:-}" ]; then read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST"); fi
    export MASTER_ADDR
    # NCCL says which of its transports failed and why (InfiniBand, GPUDirect), and nothing while all is well.
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
    # 4.096 us x 2^22 = 17 s a try. A fabric that reroutes around a bad link is silent for longer than older NCCLs wait (2^14).
    export NCCL_IB_TIMEOUT=${NCCL_IB_TIMEOUT:-22}
}

# on_every_gpu MODULE ARGUMENTS...: one task per GPU; gives srun's exit code, the highest of its tasks'.
# Waits in a way that lets this shell hear SIGTERM, which SLURM sends before it takes the nodes away.
on_every_gpu() {
    local module=$1 code=0 task heard
    shift
    trap 'told=$((told + 1))' TERM
    # --cpus-per-task: since SLURM 22.05 srun does not take the job's. cores: each rank stays on its own, with their caches.
    # --gpu-bind=none: a rank takes the GPU of its number itself, and NCCL wants to see those of the others.
    # --kill-on-bad-exit: what waits in vain for a rank that is dead gives the nodes back.
    srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --cpu-bind=cores --gpu-bind=none "${container[@]}" \
        bash -c "$RANK" "$logs" "${rank_python[@]}" -m "$module" "$@" &
    task=$!
    while :; do
        heard=$told code=0
        wait "$task" || code=$?
        if [ "$told" = "$heard" ]; then return "$code"; fi  # else the signal has ended the wait, not the task
    done
}

# The last words of ranks that have some of their own; those that only report the death of another say less than rank 0 does.
show_errors() {
    local log shown=0
    for log in "$logs"/rank-*.log; do
        if grep -qE '^(error: |Traceback)' "$log" && ! grep -q 'ended because rank' "$log"; then
            say "--- the end of $log"
            tail -n 10 "$log" >&2
            shown=$((shown + 1))
            if [ "$shown" = 4 ]; then return; fi
        fi
    done
}

# Only a run that gets further each time is queued again: `status` counts. Nothing is asked of sacct, which many sites lack.
requeue_or_end() {
    local why
    if [ "$told" -gt 0 ] && ! scontrol show job "$SLURM_JOB_ID" | grep -q 'Reason=TimeLimit'; then
        say "SLURM ends this job: preempted or requeued it comes back by itself, cancelled it does not"
        exit "$code"
    fi
    if [ "$code" != 75 ]; then show_errors; fi
    why=$("${python[@]}" -m megatron_ft.status "$run_dir" --may-requeue --exit-code "$code") || end_failed "$code" "$why"
    say "training ended with exit code $code; $why"
    scontrol requeue "$SLURM_JOB_ID" || end_failed "$code" "the queue does not take the job back; submit the same command again"
    sleep 60  # SLURM ends this script now
    exit "$code"
}

end_failed() {
    say "error: exit code $1: $2"
    exit "$1"
}

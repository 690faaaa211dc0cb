#!/usr/bin/env bash
# Scores a model on a benchmark, on many GPUs: the tasks of a job array take a share of the problems each, one job merges them.
#
#   job=$(sbatch --parsable --array=0-15 slurm/evaluate.sh --model models/sft --output results/sft \
#         --benchmark data/humanevalpack --scenario synthesize --language all --samples 20 --temperature 0.2)
#   sbatch --dependency=afterok:$job --gpus-per-node=0 slurm/evaluate.sh --merge --output results/sft
#
# After a failure submit both again: finished shards are left alone, interrupted ones go on where they were.
# The arguments are those of `python -m megatron_ft.evaluate`, without --shard and --workers, and:
#
#   --output DIR       the results with their report; until they are merged, its shards are in DIR.parts
#   --shards N         how many shards there are, when the array is only some of them: --array=3,7 ... --shards 16
#   --merge            join the shards, write tables and report.html, and remove the shards
#   --keep-parts       with --merge: do not remove them
#
# Paths are relative to where you submit; there the log is too: slurm-JOB_TASK.out, and slurm-JOB.out of the merge.
# Programs are executed on the node, in a sandbox: `python -m megatron_ft.evaluate doctor` says whether it can.
# Account, partition, python and container: slurm/site.env.
#
#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

script=evaluate.sh
root=${MEGATRON_FT_ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}
if [ -z "${MEGATRON_FT_ROOT:-}" ] && [ ! -f "$root/slurm/lib.sh" ]; then
    # sbatch runs a copy of this file in a spool folder; SLURM knows which file was submitted.
    root=$(scontrol show job "${SLURM_JOB_ID:-}" 2>/dev/null | sed -n 's/^ *Command=//p' || true) root=${root%%/slurm/"$script"*}
fi
[ -f "$root/slurm/lib.sh" ] || { echo "$script: error: '$root' is no checkout; name it: export MEGATRON_FT_ROOT=DIR" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$root/slurm/lib.sh"
# shellcheck source=slurm/shards.sh
. "$root/slurm/shards.sh"

score_shard() {
    local index=$SLURM_ARRAY_TASK_ID name
    count_shards
    require_one_split
    printf -v name 'shard-%03d-of-%03d' "$index" "$shards"
    # A folder without a dot is a finished one.
    if [ -e "$parts/$name" ]; then
        say "shard $index of $shards is finished already: $parts/$name"
        return
    fi
    if [ -e "$output" ]; then fail "--output: $output exists already; name another path or remove it first"; fi
    say "shard $index of $shards into $parts/$name"
    exec "${python[@]}" -m megatron_ft.evaluate "${passed[@]}" --output "$parts/$name" --shard "$index/$shards" \
        --workers "${SLURM_CPUS_PER_TASK:-1}"
}

merge_shards() {
    local finished=("$parts"/shard-*-of-*)
    if [ ! -e "$parts/merged" ]; then
        [ -e "${finished[0]}" ] || fail "--merge: there is no finished shard in $parts; make them first: sbatch --array=..."
        say "merging ${#finished[@]} shards into $output"
        "${python[@]}" -m megatron_ft.evaluate merge --output "$output" "${finished[@]}"
    fi
    remove_parts "$parts"/shard-*-of-*
    say "the report is $output/report.html"
}

read_arguments "--shard=the task's number in the array is the shard; sbatch --array=0-15 makes 16" \
    '--workers=one for each core of the task; sbatch --cpus-per-task=N sets them' -- "$@"
require_job "submit it with sbatch as above, or run 'python -m megatron_ft.evaluate' where you are (docs/evaluation.md)"
check_arguments --model "python -m megatron_ft.evaluate"
begin
if "$merge"; then merge_shards; else score_shard; fi

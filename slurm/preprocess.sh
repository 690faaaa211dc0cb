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
# Account, partition, python and container: slurm/site.env.
#
#SBATCH --job-name=preprocess
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
# No log name is set above, because SLURM's own is the only one that is right both in an array and out of it.

script=preprocess.sh
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
    exec "${python[@]}" "$root/preprocess/tokenize_sft.py" "${passed[@]}" --output "$parts/$name" --shard "$index/$shards" \
        --workers "${SLURM_CPUS_PER_TASK:-1}"
}

merge_shards() {
    local finished=("$parts"/shard-*-of-*.json)
    if [ ! -e "$parts/merged" ]; then
        [ -e "${finished[0]}" ] || fail "--merge: there is no finished shard in $parts; make them first: sbatch --array=..."
        say "merging ${#finished[@]} shards into $output"
        "${python[@]}" "$root/preprocess/merge_datasets.py" --input "${finished[@]%.json}" --output "$output"
    fi
    remove_parts "$parts"/shard-*-of-*.{json,idx,bin}
}

read_arguments "--shard=the task's number in the array is the shard; sbatch --array=0-15 makes 16" \
    '--workers=one for each core of the task; sbatch --cpus-per-task=N sets them' -- "$@"
require_job "submit it with sbatch as above, or run preprocess/tokenize_sft.py where you are"
check_arguments --input preprocess/tokenize_sft.py
begin
if "$merge"; then merge_shards; else make_shard; fi

#!/usr/bin/env bash
# From data to a report: submits all jobs of a fine-tuning with their dependencies, and says what they are.
#
#   bash slurm/pipeline.sh MY_PIPELINE [section.field=value ...]
#
#   data (array) -> data merge -> train -> convert to Hugging Face -> evaluate (array) -> evaluate merge: report.html
#
# MY_PIPELINE says what and where: copy slurm/pipeline.example. The rest are overrides of the training's config. It runs where
# sbatch is, on a login node; a stage whose output is there already is left out, so after a failure run the same command again.
# A job whose predecessor failed leaves the queue. Logs: OUTPUT/logs.
set -euo pipefail

script=pipeline.sh
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=slurm/lib.sh
. "$root/slurm/lib.sh"

# Names what a pipeline file lacks; its words are arrays of bash.
read_pipeline() {
    local name
    [ -f "$1" ] || fail "MY_PIPELINE: there is no file '$1'; copy slurm/pipeline.example and fill it in"
    unset OUTPUT BASE DATA DATA_SHARDS SPLIT TRAIN EVALUATE EVALUATE_SHARDS
    DATA_JOB=() TRAIN_JOB=() CONVERT_JOB=() EVALUATE_JOB=() MERGE_JOB=()
    # shellcheck source=slurm/pipeline.example
    . "$1"
    for name in OUTPUT BASE DATA DATA_SHARDS SPLIT TRAIN EVALUATE EVALUATE_SHARDS; do
        [ -n "${!name:-}" ] || fail "$1: $name is not set; slurm/pipeline.example says what it is"
    done
    for name in DATA_SHARDS EVALUATE_SHARDS; do
        [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$1: $name: '${!name}' is no number of shards"
    done
    [ -f "$root/slurm/${TRAIN[0]}" ] || fail "$1: TRAIN: '${TRAIN[0]}' is no script of slurm/; use finetune_starcoderbase.sh"
    [ -f "$BASE/config.json" ] || fail "$1: BASE: $BASE is no Hugging Face folder, it has no config.json"
}

# submit STAGE LOG SBATCH_OPTION... -- SCRIPT ARGUMENTS...: after the stage before it; sets `after` to this one.
submit() {
    local stage=$1 log=$2 options=()
    shift 2
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    if [ -n "$after" ]; then options+=(--dependency="afterok:$after" --kill-on-invalid-dep=yes); fi
    after=$(sbatch --parsable --job-name="$stage" --output="$OUTPUT/logs/$stage-$log.out" "${options[@]}" "$root/slurm/$1" "${@:2}") \
        || fail "sbatch refused the stage '$stage'; what is in the queue already: scancel${jobs:- nothing}"
    after=${after%%;*}  # a federation adds the cluster's name
    jobs+=" $after"
    say "$stage: job $after"
}

case ${1:-} in -h | --help) usage; exit 0 ;; esac
if [ $# = 0 ]; then usage >&2; fail "MY_PIPELINE: is missing"; fi
[ -z "${SLURM_JOB_ID:-}" ] || fail "this submits jobs and is none itself; run it on a login node: bash slurm/pipeline.sh ..."
command -v sbatch >/dev/null || fail "there is no sbatch here; run it on a login node of the cluster, or examples/quickstart.sh"
read_pipeline "$1"
overrides=("${@:2}")
read_site
mkdir -p "$OUTPUT/logs"
after='' jobs=''

if [ -e "$OUTPUT/results" ]; then
    say "everything is there already: $OUTPUT/results/report.html; remove $OUTPUT/results to evaluate again"
    exit 0
fi
if [ ! -e "$OUTPUT/model" ]; then
    if [ ! -e "$OUTPUT/data/mix.json" ]; then
        submit data %A_%a ${DATA_JOB[@]+"${DATA_JOB[@]}"} --array="0-$((DATA_SHARDS - 1))" -- preprocess.sh "${DATA[@]}" \
            --tokenizer "$BASE" --output "$OUTPUT/data/mix"
        submit data-merge %j ${DATA_JOB[@]+"${DATA_JOB[@]}"} -- preprocess.sh --merge --output "$OUTPUT/data/mix"
    fi
    submit train %j ${TRAIN_JOB[@]+"${TRAIN_JOB[@]}"} -- "${TRAIN[@]}" run.dir="$OUTPUT/run" load.from="$BASE" \
        "data.train=0:$SPLIT $OUTPUT/data/mix" "data.valid=$SPLIT:1 $OUTPUT/data/mix" ${overrides[@]+"${overrides[@]}"}
    submit convert %j ${CONVERT_JOB[@]+"${CONVERT_JOB[@]}"} -- convert.sh megatron_to_hf --checkpoint "$OUTPUT/run/checkpoints" \
        --output "$OUTPUT/model"
fi
submit evaluate %A_%a ${EVALUATE_JOB[@]+"${EVALUATE_JOB[@]}"} --array="0-$((EVALUATE_SHARDS - 1))" -- evaluate.sh "${EVALUATE[@]}" \
    --model "$OUTPUT/model" --output "$OUTPUT/results"
submit evaluate-merge %j --gpus-per-node=0 ${MERGE_JOB[@]+"${MERGE_JOB[@]}"} -- evaluate.sh --merge --output "$OUTPUT/results"
say "the report will be $OUTPUT/results/report.html; squeue --me shows how far it is, scancel$jobs ends all of it"

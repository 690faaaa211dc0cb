#!/usr/bin/env bash
# The whole road on one machine, with a small model: data -> training at TP2 x PP2 -> Hugging Face -> pass@1.
#
#   bash examples/quickstart.sh [starcoder|llama] [--device auto|cpu|cuda] [--output DIR]
#
#   starcoder     multi-query attention, byte-level BPE tokenizer (default)
#   llama         grouped queries, rotary positions, SentencePiece tokenizer
#   --device      auto takes GPUs where there are any (default): 4 or more run TP2 x PP2, fewer run on one;
#                 cpu always runs 4 processes at TP2 x PP2
#   --output      folder to make; default runs/quickstart-FAMILY, with a number behind it where that exists
#
# Every command is printed before it runs and is what you would type yourself. The model learns the 12 problems of
# examples/data by heart; the exit code is 0 when it then answers all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "quickstart: $*" >&2; }
refuse() { say "error: $*"; exit 2; }

family=starcoder device=auto output=""
while [ $# -gt 0 ]; do
    case "$1" in
        starcoder | llama) family=$1 ;;
        --device | --output)
            [ $# -gt 1 ] || refuse "$1 needs a value (see --help)"
            if [ "$1" = --device ]; then device=$2; else output=$2; fi
            shift ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) refuse "unknown argument '$1'; families are starcoder and llama (see --help)" ;;
    esac
    shift
done
case "$device" in auto | cpu | cuda) ;; *) refuse "--device: '$device' is unknown; use auto, cpu or cuda" ;; esac

# Nothing is ever overwritten: a second run gets a folder of its own.
make_output() {
    if [ -n "$output" ]; then
        mkdir -p "$(dirname "$output")"
        mkdir "$output" 2>/dev/null || refuse "--output: $output exists already; name another folder or remove it first"
        return
    fi
    mkdir -p runs
    local number=1
    output=runs/quickstart-$family
    until mkdir "$output" 2>/dev/null; do
        [ -e "$output" ] || refuse "$output cannot be made; is the disk full or the folder read-only?"
        number=$((number + 1))
        output=runs/quickstart-$family-$number
    done
    if [ "$number" -gt 1 ]; then say "earlier runs stay as they are"; fi
}

# Sets device, processes and layout.
choose_layout() {
    local gpus=0
    if [ "$device" != cpu ]; then gpus=$(python -c 'import torch; print(torch.cuda.device_count())'); fi
    if [ "$device" = cuda ] && [ "$gpus" = 0 ]; then refuse "--device cuda: torch sees no GPU here; use --device cpu"; fi
    processes=4 layout=()
    if [ "$gpus" = 0 ]; then
        device=cpu
        say "device: the CPU, 4 processes at TP2 x PP2 with sequence parallelism"
    elif [ "$gpus" -ge 4 ]; then
        device=cuda
        say "device: 4 of $gpus GPUs at TP2 x PP2 with sequence parallelism"
    else
        device=cuda processes=1 layout=(parallel.tp=1 parallel.pp=1 parallel.sequence_parallel=false)
        say "device: one GPU (TP2 x PP2 takes 4, $gpus found; --device cpu runs the full layout)"
    fi
}

# A command as one would type it: quotes only where the shell needs them.
typed() {
    local word line="\$"
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=,+@-]+$ ]]; then line+=" $word"; else line+=" '${word//\'/\'\\\'\'}'"; fi
    done
    printf '\n%s\n' "$line"
}

stage() {
    local name=$1 code=0
    shift
    typed "$@"
    python examples/measured.py --record "$output/stages.jsonl" --stage "$name" -- "$@" || code=$?
    if [ "$code" != 0 ]; then
        say "error: the stage '$name' ended with exit code $code; its command and messages are above, its files in $output"
        exit "$code"
    fi
}

evaluate() {
    local name=$1 model=$2 problems=$3
    stage "evaluate: $name" python -m megatron_ft.evaluate --model "$model" --benchmark "$problems" \
        --scenario synthesize --language python --max-new-tokens 200 --device "$device" --dtype float32 --output "$output/$name"
}

bash install.sh
typed source .venv/bin/activate
set +u # the activate scripts of older Pythons read variables that are not set
# shellcheck source=/dev/null
source .venv/bin/activate
set -u
# The model is so small that sharing its multiplications among threads costs more than it gains.
typed export OMP_NUM_THREADS=1
export OMP_NUM_THREADS=1
# Everything is here; a library that reaches for the network on the way would only slow it down.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

choose_layout
make_output
say "family: $family; everything goes to $output"

memorised=examples/data/problems.jsonl held_out=examples/data/problems_heldout.jsonl

stage data python examples/make_data.py --problems "$memorised" --rows examples/data/questions.jsonl --output "$output/data.jsonl"
stage model python examples/make_model.py --family "$family" --data "$output/data.jsonl" --output "$output/base"
stage tokenize python preprocess/tokenize_sft.py --input "$output/data.jsonl" --output "$output/tokens/sft" --tokenizer "$output/base"
stage convert python convert/hf_to_megatron.py --hf "$output/base" --output "$output/base-megatron"
evaluate before "$output/base" "$memorised"

stage train torchrun --standalone --nproc-per-node "$processes" -m megatron_ft.train \
    examples/configs/quickstart.toml run.dir="$output/run" load.from="$output/base-megatron" \
    "data.train=0:0.9 $output/tokens/sft" "data.valid=0.9:1 $output/tokens/sft" runtime.device="$device" ${layout[@]+"${layout[@]}"}

stage "convert back" python convert/megatron_to_hf.py --checkpoint "$output/run/checkpoints" --output "$output/tuned"
stage verify python convert/verify.py --hf "$output/tuned" --checkpoint "$output/run/checkpoints"
evaluate after "$output/tuned" "$memorised"
evaluate held_out "$output/tuned" "$held_out"
stage plot python examples/plot_loss.py "$output/run" --output "$output/loss.png"

typed python examples/summary.py "$output"
python examples/summary.py "$output"
say "the fine-tuned model is $output/tuned, the loss curves are $output/loss.png"

#!/usr/bin/env bash
# Converts or checks a model, as a job on one node without a GPU: any command of convert/ with its arguments.
#
#   sbatch slurm/convert.sh megatron_to_hf --checkpoint runs/sft/checkpoints --output models/sft
#   sbatch slurm/convert.sh hf_to_megatron --hf models/starcoderbase --output checkpoints/starcoderbase
#   sbatch slurm/convert.sh verify --hf models/sft --checkpoint runs/sft/checkpoints --quick
#
# After a failure submit it again: it goes on where it was. docs/convert.md has the arguments.
# Paths are relative to where you submit; there the log is too: slurm-JOB.out.
# Account, partition, python and container: slurm/site.env.
#
#SBATCH --job-name=convert
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

script=convert.sh
root=${MEGATRON_FT_ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}
if [ -z "${MEGATRON_FT_ROOT:-}" ] && [ ! -f "$root/slurm/lib.sh" ]; then
    # sbatch runs a copy of this file in a spool folder; SLURM knows which file was submitted.
    root=$(scontrol show job "${SLURM_JOB_ID:-}" 2>/dev/null | sed -n 's/^ *Command=//p' || true) root=${root%%/slurm/"$script"*}
fi
[ -f "$root/slurm/lib.sh" ] || { echo "$script: error: '$root' is no checkout; name it: export MEGATRON_FT_ROOT=DIR" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$root/slurm/lib.sh"

command=${1:-}
case $command in -h | --help) usage; exit 0 ;; esac
require_job "submit it with sbatch as above, or run the commands of convert/ where you are"
if [[ ! $command =~ ^[a-z_]+$ ]] || [ ! -f "$root/convert/$command.py" ]; then
    known=$(cd "$root/convert" && printf '%s ' *.py)
    fail "'$command' is no command of convert/; the first argument is one of: ${known//.py/}"
fi
begin
exec "${python[@]}" "$root/convert/$command.py" "${@:2}"

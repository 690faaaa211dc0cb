#!/usr/bin/env bash
# Fine-tunes StarCoderBase (15.5B) on 64 A100-80G, 8 nodes of 8.
#
#   sbatch slurm/finetune_starcoderbase.sh run.dir=runs/sft load.from=models/starcoderbase \
#       'data.train=0:0.95 data/mix' 'data.valid=0.95:1 data/mix'
#
# Arguments are a config, when it is not examples/configs/starcoderbase-15b.toml, and overrides of its fields
# (docs/config.md): sbatch --nodes=1 slurm/finetune_starcoderbase.sh my.toml optim.lr=1e-5 ...
#
# The job saves a checkpoint three minutes before its time limit, goes back into the queue under the same number and goes on
# where it was; so it does after preemption, a dead node or a killed rank. It ends when training is done, when a user must
# change something (exit code 2), or when three starts in a row have not got further. docs/hpc.md says what its messages mean.
#
# Paths are relative to where you submit; there the log is too: slurm-JOB.out. Logs of the other ranks, the resolved config and
# the code's commit are in run.dir/jobs/JOB-START. Account, partition, python and container: slurm/site.env.
#
#SBATCH --job-name=starcoderbase
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=16
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

script=finetune_starcoderbase.sh
root=${MEGATRON_FT_ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}
if [ -z "${MEGATRON_FT_ROOT:-}" ] && [ ! -f "$root/slurm/lib.sh" ]; then
    # sbatch runs a copy of this file in a spool folder; SLURM knows which file was submitted.
    root=$(scontrol show job "${SLURM_JOB_ID:-}" 2>/dev/null | sed -n 's/^ *Command=//p' || true) root=${root%%/slurm/"$script"*}
fi
[ -f "$root/slurm/lib.sh" ] || { echo "$script: error: '$root' is no checkout; name it: export MEGATRON_FT_ROOT=DIR" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$root/slurm/lib.sh"
# shellcheck source=slurm/training.sh
. "$root/slurm/training.sh"

train examples/configs/starcoderbase-15b.toml "$@"

"""Which device a run uses and which process this is: read once at start, then passed along."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from typing import Literal

from megatron_ft.config import Runtime
from megatron_ft.errors import ConfigError

Device = Literal["cpu", "cuda"]
FIRST_JOB_PORT, JOB_PORTS = 20000, 20000  # below the ephemeral range, so that no client socket holds one by accident


@dataclasses.dataclass(frozen=True)
class Process:
    """This process among all of the run."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    """Processes of the run on this machine."""
    address: str
    port: int
    store_is_open: bool = False
    """torchrun's own process holds the rendezvous there; else rank 0 opens it."""


def choose(setting: str) -> Device:
    """The device for `runtime.device`; ConfigError when CUDA is asked for and no GPU is visible."""
    if setting == "cpu":
        return "cpu"
    import torch

    available = torch.cuda.is_available()
    if setting == "cuda" and not available:
        raise ConfigError("runtime.device: 'cuda', but torch sees no GPU "
                          f"(torch {torch.__version__}); use runtime.device=cpu, or a torch built for CUDA on a GPU node")
    return "cuda" if available else "cpu"


def process_of(environment: dict[str, str]) -> Process:
    """Where torchrun or srun has put this process; one process alone without them.

    torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT; srun sets SLURM_PROCID,
    SLURM_NTASKS, SLURM_LOCALID, and the rendezvous follows from the job's first node and its id.

    >>> process_of({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    ...             "MASTER_ADDR": "n0", "MASTER_PORT": "29500"})
    Process(rank=3, size=4, local_rank=1, local_size=2, address='n0', port=29500, store_is_open=False)
    >>> process_of({})
    Process(rank=0, size=1, local_rank=0, local_size=1, address='127.0.0.1', port=0, store_is_open=False)
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        size = int(environment["WORLD_SIZE"])
        return Process(int(environment["RANK"]), size, int(environment.get("LOCAL_RANK", "0")),
                       int(environment.get("LOCAL_WORLD_SIZE", size)),
                       environment.get("MASTER_ADDR", "127.0.0.1"), int(environment.get("MASTER_PORT", "0")),
                       environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True")
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        port = FIRST_JOB_PORT + int(environment.get("SLURM_JOB_ID", "0")) % JOB_PORTS
        local = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1"))
        return Process(int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"]),
                       int(environment.get("SLURM_LOCALID", "0")), int(local.split("(")[0].split(",")[0]),
                       environment.get("MASTER_ADDR") or _first_node(environment),
                       int(environment.get("MASTER_PORT", port)))
    return Process(0, 1, 0, 1, "127.0.0.1", 0)


def _first_node(environment: dict[str, str]) -> str:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    if "[" not in nodes:
        return nodes.split(",")[0] or "127.0.0.1"
    listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return listed.stdout.split()[0]


def prepare(setting: Runtime, process: Process) -> Device:
    """Choose the device, adapt megatron-core when it is the CPU, and take this process's GPU or share of the cores.

    Must run before anything imports megatron.core.
    """
    device = choose(setting.device)
    import torch

    if device == "cpu":
        from megatron_ft.runtime import cpu

        cpu.activate()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(setting.threads or max(1, cores // process.local_size))
        return device
    visible = torch.cuda.device_count()
    if process.local_rank >= visible:
        raise ConfigError(f"rank {process.rank} is number {process.local_rank} on its machine, which shows only {visible} "
                          "GPUs; start one process per GPU (--nproc-per-node, --ntasks-per-node)")
    # One queue of work for the GPU: a collective that is to run beside a matrix product starts before it, as megatron-core's
    # tensor parallelism expects on GPUs before Blackwell. Read when the context is made, which set_device does.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    torch.cuda.set_device(process.local_rank)
    if setting.threads:
        torch.set_num_threads(setting.threads)
    return device

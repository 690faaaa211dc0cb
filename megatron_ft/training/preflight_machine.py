"""What a rank says of itself, its node and its GPU in the preflight. Torch is loaded only to ask for the GPU."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from megatron_ft import cli
from megatron_ft.config import Config
from megatron_ft.errors import ConfigError
from megatron_ft.runtime import device, source_code
from megatron_ft.runtime.device import Process
from megatron_ft.training import preflight_packages

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def facts(process: Process, config: Config) -> dict[str, Any]:
    """This rank's, as JSON; those of its node from the first rank on it alone."""
    own: dict[str, Any] = {
        "rank": process.rank, "node": node(), "pid": os.getpid(),
        "local_rank": process.local_rank, "local_size": process.local_size, "cores": cli.cores(),
        "offline": [name for name in OFFLINE if os.environ.get(name, "0").lower() not in ("1", "true", "yes", "on")],
        "versions": {**preflight_packages.versions(), "commit": source_code.commit() or "none"}, **_gpu(process, config)}
    if process.local_rank == 0:
        own["versions"]["files of megatron_ft"] = source_code.fingerprint()
        own["machine"] = {"memory_bytes": _memory(), "shm_bytes": _free(Path("/dev/shm")), "driver": _driver(), **_temporary()}
    return own


def node() -> str:
    """This machine's name, as SLURM has it where there is one."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _gpu(process: Process, config: Config) -> dict[str, Any]:
    try:
        if device.choose(config.runtime.device) == "cpu":
            return {"device": "cpu", "gpu": None}
    except ConfigError as error:
        return {"device": "none", "gpu": None, "gpu_error": str(error)}
    import torch

    count = torch.cuda.device_count()
    if process.local_rank >= count:
        return {"device": "cuda", "gpu": None, "gpu_error": f"shows {count} GPU{'s' if count != 1 else ''} to its "
                f"{process.local_size} ranks"}
    about = torch.cuda.get_device_properties(process.local_rank)
    free, total = torch.cuda.mem_get_info(process.local_rank)
    versions = {"CUDA": str(torch.version.cuda), "NCCL": ".".join(map(str, torch.cuda.nccl.version()))}
    return {"device": "cuda", "gpu_libraries": versions, "gpu": {
        "name": about.name, "bytes": total, "free_bytes": free, "count": count, "id": str(getattr(about, "uuid", "")),
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False)}}


def _memory() -> int:
    """Bytes that processes of this node may still take, of the machine or of the job's control group."""
    import psutil

    room = [psutil.virtual_memory().available]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition("::")[2]
        for folder in (Path("/sys/fs/cgroup") / group.strip("/"), *(Path("/sys/fs/cgroup") / group.strip("/")).parents):
            limit = (folder / "memory.max").read_text(encoding="ascii").strip()
            if limit != "max":
                room.append(int(limit) - int((folder / "memory.current").read_text(encoding="ascii")))
    return min(room)


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _temporary() -> dict[str, Any]:
    folder = tempfile.gettempdir()
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as stream:
            stream.write(b"megatron_ft")
    except OSError as error:
        return {"tmp": folder, "tmp_bytes": None, "tmp_error": str(error)}
    return {"tmp": folder, "tmp_bytes": _free(Path(folder))}


def _driver() -> str:
    """Version of NVIDIA's kernel driver; empty where there is none."""
    with contextlib.suppress(OSError, IndexError):
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split("Kernel Module")[1].split()[0]
    return ""

"""Writes a rank's part of a checkpoint in threads of this process, from copies that training does not touch.

megatron-core's own asynchronous writers are processes: forked from one that holds a CUDA context and threads, or spawned
with a start-up of seconds, a server beside them that outlives a rank that is killed. Threads end with their rank. What
they do, copying, summing and writing bytes, holds Python's lock for moments only.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from megatron_ft.runtime.checkpoint_files import Record, SummedFile
from megatron_ft.training import optimizer_state

_PATIENCE_S = 10.0
_FILES_PER_RANK = 2
Bucket = tuple[str, str, tuple[list[tuple[WriteItem, Any]], list[tuple[WriteItem, torch.Tensor]]]]
"""megatron-core's plan of one file: path, name, (objects, tensors)."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Who writes what: this rank's files, and on rank 0 what makes `.metadata` of what all have written."""

    writer: FileSystemWriterAsync
    metadata: Metadata | None

    @property
    def buckets(self) -> list[Bucket]:
        """This rank's files; their tensors are those that training goes on to change."""
        return self.writer.write_buckets


class PlanStrategy(TorchDistSaveShardedStrategy):
    """megatron-core's strategy up to its plan, in place of the request that its own processes would carry out."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1, thread_count=_FILES_PER_RANK)
        filesystem_async._results_queue = queue.Queue()  # else planning starts a server process to pass results on

    def _get_save_and_finalize_callbacks(self, writer: FileSystemWriterAsync, save_state_dict_ret: Sequence[Any]) -> Plan:
        metadata = save_state_dict_ret[1]
        if metadata is not None:
            del metadata.all_local_plans  # many times what a load needs, and every rank would read it
        return Plan(writer, metadata)


def copied(buckets: Iterable[Bucket], live: set[int]) -> list[Bucket]:
    """The same plan with every tensor in host memory and apart from what training goes on to change.

    Args:
        live: addresses of the storages that training changes (`live_storages`); planning has copied some tensors already.
    """
    copies = [(path, name, (objects, [(item, _copy(tensor, live)) for item, tensor in tensors]))
              for path, name, (objects, tensors) in buckets]
    torch.cuda.synchronize()
    return copies


def _copy(tensor: torch.Tensor, live: set[int]) -> torch.Tensor:
    if tensor.device.type != "cpu":
        return tensor.to("cpu", non_blocking=True)  # into pinned memory
    return tensor.clone() if tensor.untyped_storage().data_ptr() in live else tensor


def live_storages(chunks: Sequence[torch.nn.Module], optimizer: MegatronOptimizer) -> set[int]:
    """Addresses of the memory that training changes: weights, fp32 weights and the optimizer's state."""
    tensors: list[torch.Tensor] = [parameter for chunk in chunks for parameter in chunk.parameters()]
    for part in optimizer_state.parts(optimizer):
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                state = part.optimizer.state[parameter].values()
                tensors += [parameter, *(tensor for tensor in state if isinstance(tensor, torch.Tensor))]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def bytes_of(buckets: Iterable[Bucket]) -> int:
    """Bytes of all tensors of a plan."""
    return sum(tensor.nbytes for _, _, (_, tensors) in buckets for _, tensor in tensors)


class Writing:
    """Files that are being written, a thread for each."""

    def __init__(self, buckets: list[Bucket], more: dict[Path, Any]) -> None:
        """Start to write.

        Args:
            buckets: as `copied` gives them.
            more: path -> object, each for a file of its own (torch.save).
        """
        self.records: dict[str, Record] = {}
        """Name -> size and sum of each file that has been written to its end."""
        self.results: list[WriteResult] = []
        """Where each item lies."""
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        jobs: list[Callable[[], None]] = [lambda bucket=bucket: self._write_bucket(bucket) for bucket in buckets]
        jobs += [lambda path=path, value=value: self._write_object(path, value) for path, value in more.items()]
        # As daemons they end with the process, however it ends.
        self._threads = [threading.Thread(target=self._guarded, args=(job,), name="checkpoint", daemon=True) for job in jobs]
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> bool:
        """Whether all files have been written, or given up."""
        return not any(thread.is_alive() for thread in self._threads)

    def wait(self, timeout_s: float) -> None:
        """Return when it is done, or after that time."""
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def give_up(self) -> None:
        """Write nothing more; return when the threads have ended, or soon after: a disk may hang."""
        self._stop.set()
        self.wait(timeout_s=_PATIENCE_S)

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001 - it is raised on all ranks at the next step
            self.errors.append(error)

    def _write_bucket(self, bucket: Bucket) -> None:
        path, name, (objects, tensors) = bucket
        with SummedFile(Path(path), stop=self._stop) as stream:
            results = [_write_item(stream, name, item, value) for item, value in (*objects, *tensors)]
        self.results += results
        self.records[name] = stream.record()

    def _write_object(self, path: Path, value: Any) -> None:
        with SummedFile(path, stop=self._stop) as stream:
            torch.save(value, stream)
        self.records[path.name] = stream.record()


def _write_item(stream: SummedFile, name: str, item: WriteItem, value: Any) -> WriteResult:
    """Append one item as torch.distributed.checkpoint does."""
    start = stream.tell()
    if item.type == WriteItemType.BYTE_IO:
        stream.write(value.getbuffer())
    else:
        torch.save(value, stream)
    stream.check()
    length = stream.tell() - start
    return WriteResult(index=item.index, size_in_bytes=length, storage_data=_StorageInfo(name, start, length))

"""Saves a run's checkpoints while it trains: copied at once, written in the background, published when all ranks are done.

    save()   all ranks: whole weights -> plan -> room? -> copies in host memory; threads start to write; training goes on
    poll()   after each step: are all ranks' threads done? then rank 0 adds metadata, hf/ and the manifest with every
             file's sum, renames the folder, moves `latest` on and removes what is not to stay
    wait()   for the one that is being written
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.storage import WriteResult

from megatron_ft import log
from megatron_ft.config import Checkpoint
from megatron_ft.errors import CheckpointError, TrainingError
from megatron_ft.runtime import agreement, checkpoint_files, hf_files
from megatron_ft.runtime import checkpoint_layout as layout
from megatron_ft.runtime.checkpoint_files import Record, readable
from megatron_ft.training import checkpoint, state_writer
from megatron_ft.training.optimizer import whole_weights
from megatron_ft.training.progress import Progress
from megatron_ft.training.state_writer import Plan, PlanStrategy, Writing

_SPARE_BYTES = 16 * 2**20
"""Room for what is not tensors: metadata, tokenizer, the file system's own."""


@dataclasses.dataclass
class _Pending:
    """A save between its copies and its publication."""

    step: int
    partial: Path
    manifest: layout.Manifest
    plan: Plan
    writing: Writing
    started: float
    held_up_s: float
    """Time that training has waited for it."""


class Saver:
    """Writes the checkpoints of a run, as a context around training; all ranks call every method together."""

    def __init__(self, root: Path, settings: Checkpoint, *, hf_source: Path, resumed: int,
                 keeps_best: bool = False) -> None:
        """
        Args:
            root: the run's own checkpoint root.
            hf_source: folder with config and tokenizer of the base model, which go along with each checkpoint so that
                the way back needs nothing else.
            resumed: step that the run goes on from, 0 for a new one. Checkpoints of later steps are another future's: they
                are removed once a new one is complete.
            keeps_best: the checkpoint of the step with the best validation loss stays as well, where there is one.
        """
        self._root, self._settings, self._hf_source, self._keeps_best = root, settings, hf_source, keeps_best
        self._other_future = {step for step in layout.saved_steps(root) if step > resumed}
        # Without the wrapper data-parallel rank 0 would write all that its replicas hold too.
        self._strategy = FullyParallelSaveStrategyWrapper(
            PlanStrategy(), parallel_state.get_data_parallel_group(with_context_parallel=True), do_cache_distribution=True)
        self._pending: _Pending | None = None
        self._removal: threading.Thread | None = None
        self._needed = 0
        self.overdue_since: int | None = None
        """Step of a save that there was no room for and that has not been made up for; None: nothing is overdue."""
        self.longest_s = 0.0
        """The longest save so far, from its start to its publication."""

    def save(self, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, progress: Progress, *,
             manifest: layout.Manifest, due: bool = True, last: bool = False) -> None:
        """Save the state as it is now. An earlier save is finished first.

        Without room for it the run goes on once, with a warning, and should call again after each step (`overdue_since`).

        Args:
            manifest: what is known before the files are; progress and files are added.
            due: False to make up for an earlier save that there was no room for.
            last: nothing will be saved after this; the call returns when it is complete.
        CheckpointError where it cannot be written, where there was no room for two saves that were due, or for the last.
        """
        started = time.perf_counter()
        self.wait()
        partial = self._root / checkpoint_files.HIDDEN_PARTIAL.format(layout.folder_name(progress.step))
        if self.overdue_since is not None and not self._has_room():
            self._refuse(partial, progress.step, due=due, last=last)
            return
        agreement.together(lambda: self._make_folder(partial), kind=CheckpointError, first_only=True)
        with whole_weights(chunks):
            state, common = save_preprocess(checkpoint.run_state(chunks, optimizer, progress), validate_access_integrity=False)
            plan = self._strategy.async_save(state, partial)
            self._needed = agreement.total(state_writer.bytes_of(plan.buckets)) + _SPARE_BYTES
            if not self._has_room():
                self._refuse(partial, progress.step, due=due, last=last)
                return
            copies = state_writer.copied(plan.buckets, state_writer.live_storages(chunks, optimizer))
        first = torch.distributed.get_rank() == 0
        writing = Writing(copies, {partial / COMMON_STATE_FNAME: common} if first else {})
        self.overdue_since = None
        manifest = dataclasses.replace(manifest, progress={**manifest.progress, **dataclasses.asdict(progress)})
        self._pending = _Pending(progress.step, partial, manifest, plan, writing, started, time.perf_counter() - started)
        if last or not self._settings.asynchronous:
            self.wait()

    @property
    def is_writing(self) -> bool:
        """Whether a save has not been published yet."""
        return self._pending is not None

    def poll(self) -> None:
        """Publish the save that is being written, if all ranks have written their part; to be called after each step.

        CheckpointError where any rank could not write.
        """
        if self._pending is not None and agreement.all_true(self._pending.writing.done):
            self.wait()

    def wait(self) -> None:
        """Publish the save that is being written, as soon as all ranks have written their part."""
        pending = self._pending
        if pending is None:
            return
        started = time.perf_counter()
        # In short turns: the rank that writes fastest must not wait in a collective for as long as the slowest one writes.
        while not agreement.all_true(pending.writing.done):
            pending.writing.wait(timeout_s=1.0)
        self._pending = None
        try:
            self._finish(pending)
        except BaseException:
            if torch.distributed.get_rank() == 0:
                shutil.rmtree(pending.partial, ignore_errors=True)
            raise
        now = time.perf_counter()
        self.longest_s = max(self.longest_s, now - pending.started)
        log.get().info("saved %s: %s in %.1f s, training waited %.1f s", self._root / layout.folder_name(pending.step),
                       readable(self._needed - _SPARE_BYTES), now - pending.started, pending.held_up_s + now - started)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Wait for the last save and for the removal of old ones.

        A TrainingError is raised by all ranks together, and so is waited with. After any other exception the other ranks
        cannot be counted on: writing is given up, on this rank alone, and what it has written stays hidden until the next
        run's first save removes it.
        """
        if kind is None or issubclass(kind, TrainingError):
            self.wait()
            self._join_removal()
        elif self._pending is not None:
            self._pending.writing.give_up()

    def _make_folder(self, partial: Path) -> None:
        self._join_removal()
        for left in checkpoint_files.leftovers(self._root):
            checkpoint_files.delete(left)
        partial.mkdir(parents=True)

    def _has_room(self) -> bool:
        return agreement.from_first(checkpoint_files.free_bytes(self._root) >= self._needed)

    def _refuse(self, partial: Path, step: int, *, due: bool, last: bool) -> None:
        """Warn and remember, or where nothing may be postponed (any more) raise."""
        free = agreement.from_first(checkpoint_files.free_bytes(self._root))
        if torch.distributed.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        short = (f"{self._root}: the checkpoint of step {step} takes {readable(self._needed)}, but {readable(free)} are free; "
                 "nothing was written and the checkpoints that are there stay")
        advice = "make room, or lower checkpoint.keep_last or keep_every"
        if last or (due and self.overdue_since is not None):
            since = f", and since step {self.overdue_since} none could be saved" if self.overdue_since is not None else ""
            raise CheckpointError(f"{short}{since}; {advice}, then start the run again")
        if not due:
            return
        self.overdue_since = step
        if torch.distributed.get_rank() == 0:
            log.get().warning("%s. The run goes on and tries again after each step; if there is still no room when the next "
                              "checkpoint is due, it ends. %s", short, advice.capitalize())

    def _finish(self, pending: _Pending) -> None:
        errors = pending.writing.errors
        agreement.raise_first(f"the checkpoint of step {pending.step} could not be written: {type(errors[0]).__name__}: "
                              f"{errors[0]}; those before it stay in {self._root}. Make room or mend the disk, then start the "
                              "run again" if errors else None, kind=CheckpointError, cause=errors[0] if errors else None)
        written = agreement.to_first((pending.writing.results, pending.writing.records))
        agreement.together(lambda: self._publish(pending, written), kind=CheckpointError, first_only=True)

    def _publish(self, pending: _Pending, written: list[tuple[list[WriteResult], dict[str, Record]]]) -> None:
        """On rank 0: complete the folder, give it its name, and only then remove others.

        Args:
            written: of each rank, where its items lie and what its files are.
        """
        records = {name: record for _, of_rank in written for name, record in of_rank.items()}
        try:
            unseen = checkpoint_files.wrong_sizes(pending.partial, records)
            if unseen:
                raise OSError(f"rank 0 does not see what others have written ({unseen[0]}): run.dir must be on a file system "
                              "that their machines share")
            pending.plan.writer.finish(pending.plan.metadata, [results for results, _ in written])
            self._complete(pending.partial, pending.manifest, records)
            final = self._root / layout.folder_name(pending.step)
            replaced = [checkpoint_files.hide(final)] if final.exists() else []  # steps that are done again after a resume
            pending.partial.rename(final)
            checkpoint_files.sync_folder(self._root)
            layout.set_latest(self._root, pending.step)
            checkpoint_files.sync_folder(self._root)
        except OSError as error:
            raise CheckpointError(f"the checkpoint of step {pending.step} could not be published: {error}; those before it "
                                  f"stay in {self._root}") from error
        best = pending.manifest.progress["best_step"] if self._keeps_best else None
        self._remove(replaced + self._take_away(pending.step, best))

    def _complete(self, partial: Path, manifest: layout.Manifest, records: dict[str, Record]) -> None:
        """Add what is not tensors, and the manifest with every file's record; all of it outlives a crash of the machine."""
        save_config(CheckpointingConfig("torch_dist", 1), str(partial))
        if self._hf_source.is_dir():
            hf_files.copy_companions(self._hf_source, partial / layout.HF_FOLDER)
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            name = str(path.relative_to(partial))
            if name not in records:
                checkpoint_files.sync_file(path)
                records[name] = checkpoint_files.record(path)
        dataclasses.replace(manifest, files=records).write(partial)
        for folder in (partial / layout.HF_FOLDER, partial):
            if folder.is_dir():
                checkpoint_files.sync_folder(folder)

    def _take_away(self, step: int, best: int | None) -> list[Path]:
        """Hide the checkpoints that are not to stay now that step's is complete; folders that are not ours are left alone."""
        self._other_future.discard(step)
        ours = [saved for saved in layout.saved_steps(self._root)
                if (self._root / layout.folder_name(saved) / layout.MANIFEST_FILE).is_file()]
        own_past = [saved for saved in ours if saved not in self._other_future]
        expired = layout.expired(own_past, keep_last=self._settings.keep_last, keep_every=self._settings.keep_every)
        gone = [saved for saved in expired if saved != best]
        gone += [saved for saved in ours if saved in self._other_future]
        self._other_future.clear()
        for saved in gone:
            log.get().info("removing %s", self._root / layout.folder_name(saved))
        return [checkpoint_files.hide(self._root / layout.folder_name(saved)) for saved in gone]

    def _remove(self, hidden: list[Path]) -> None:
        """Delete in the background: a checkpoint is hundreds of gigabytes, and training need not wait for that."""
        if hidden:
            self._removal = threading.Thread(target=_delete, args=(hidden,), name="removal", daemon=True)
            self._removal.start()

    def _join_removal(self) -> None:
        if self._removal is not None:
            self._removal.join()
            self._removal = None


def _delete(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)  # what stays is hidden, and the next save tries again

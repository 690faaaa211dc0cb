"""What one process can check of a run, for any number of ranks: config, data, model, folder, room, memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_ft import cli
from megatron_ft.config import Config
from megatron_ft.data import tokenizer
from megatron_ft.errors import DataError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_files, checkpoint_layout
from megatron_ft.runtime.checkpoint_files import readable
from megatron_ft.runtime.device import Process
from megatron_ft.training import attempt_record, attempts, base_model, resume, run_folder, setup
from megatron_ft.training.estimate import TIGHT, estimate
from megatron_ft.training.gpus import GIB, Gpu
from megatron_ft.training.preflight_check import Check, attempt
from megatron_ft.training.setup import Setup

OTHER_JOB_S = 120.0
"""A run that was heard of so recently, and has not ended, may be going on."""


def checks(config: Config, process: Process, gpu: Gpu | None) -> Iterator[Check]:
    """All of them; what cannot be checked because something before it failed is left out.

    Args:
        process: stands for the run's rank 0; its size is the number of GPUs.
        gpu: what each of them is; None where nobody has said so.
    """
    prepared, wrong = attempt("config and data", lambda: setup.prepare(config, process))
    yield from wrong
    if prepared is not None:
        yield from _prepared(prepared)
    yield from run_dir(Path(config.run.dir))
    architecture = prepared.architecture if prepared else attempt("", lambda: base_model.find(config.load.base).architecture)[0]
    if architecture is not None:
        yield room(config, architecture)
        if gpu is not None:
            fits, unfit = attempt("layout", lambda: memory(config, architecture, gpu, processes=process.size))
            yield from [line for line in unfit if line.found not in {said.found for said in wrong}] or ([fits] if fits else [])


def _prepared(found: Setup) -> Iterator[Check]:
    plan = found.plan
    yield Check("plan", "ok", "\n".join(plan.lines()))
    yield Check("base model", "ok", f"{found.base.folder}: {found.architecture.family}, {found.architecture.parameters:,} "
                "parameters")
    rows = f"{plan.rows_per_epoch:,} rows of {plan.row_tokens} tokens an epoch"
    yield Check("data", "ok", f"{found.loader.selection.documents:,} documents, {rows}; validation on "
                f"{', '.join(found.valid) or 'nothing'}")
    yield same_tokenizer(found.tokenizers, found.base.hf_files)


def same_tokenizer(of_data: Sequence[str], folder: Path) -> Check:
    """Whether data were made with the base model's: a start insists on equal sizes only, which say nothing about ids.

    Args:
        of_data: fingerprints of those that made the datasets.
        folder: with the base model's.
    """
    if not of_data:
        return Check("tokenizer", "warn", "the datasets do not say which tokenizer made them (OctoPack's pairs do not)",
                     f"make sure that it was the one in {folder}")
    try:
        own = tokenizer.load(folder).fingerprint
    except DataError as error:
        return Check("tokenizer", "warn", f"the base model's cannot be read: {error}", "compare them yourself")
    others = [each for each in of_data if each != own]
    if others:
        return Check("tokenizer", "warn", f"data were made with {', '.join(each[:12] for each in others)}, the base model's is "
                     f"{own[:12]}", "tokenize with the base model's own, unless you know that the ids are the same")
    return Check("tokenizer", "ok", f"data were made with the base model's ({own[:12]})")


def run_dir(folder: Path) -> Iterator[Check]:
    """Whether the run can write there, what it goes on from, and that no other job is writing there now."""
    written, wrong = attempt("run.dir", lambda: probe(folder))
    yield from wrong
    if written is not None:
        saved = attempts.saved_step(folder)
        goes_on = f"goes on from step {saved:,}" if saved else "starts anew"
        yield Check("run.dir", "ok", f"{folder}: {goes_on}; files can be written, synced and renamed{written}")
    last = (attempts.of(run_folder.read(folder / run_folder.EVENTS), now=run_folder.read_now(folder)) or [None])[-1]
    if last is None or last.has_ended or attempt_record.lives(last.about) is False:
        return
    if time.time() - last.heard < OTHER_JOB_S and last.about.get("job", "") != os.environ.get("SLURM_JOB_ID"):
        yield Check("other job", "warn", f"a run that has not ended wrote there {time.time() - last.heard:.0f} s ago: job "
                    f"{last.about.get('job')} on {last.about.get('nodes')}", "end it first: two runs in one folder spoil each "
                    f"other (python -m megatron_ft.status {folder})")


def probe(folder: Path) -> str:
    """Write, sync, lock and rename a small file, and leave nothing; what is odd in words. OSError where it cannot be done."""
    made = [parent for parent in (folder, *folder.absolute().parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".preflight.{secrets.token_hex(6)}"
    odd = ""
    try:
        with path.open("w") as stream:
            stream.write("megatron_ft")
            stream.flush()
            checkpoint_files.sync_file(path)
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in cli.WITHOUT_LOCKS:
                    raise
                odd = ", but this file system has no locks: nothing stops two commands from writing one output"
        path = path.rename(path.with_suffix(".renamed"))
        checkpoint_files.sync_folder(folder)
    finally:
        path.unlink(missing_ok=True)
        for each in made:  # the innermost first
            with contextlib.suppress(OSError):
                each.rmdir()
    return odd


def room(config: Config, architecture: Architecture) -> Check:
    """Whether the checkpoints that are to stay, and the one that is being written, fit into what is free."""
    one = resume.bytes_of_one(config, architecture)
    root = Path(config.run.dir) / "checkpoints"
    stay = config.checkpoint.keep_last + (config.validation.patience > 0)
    there = min(len(checkpoint_layout.saved_steps(root)), stay)
    free, needed = checkpoint_files.free_bytes(root), (stay + 1 - there) * one
    found = (f"{readable(free)} free; {readable(needed)} = {stay + 1 - there} x {readable(one)} for the {stay} checkpoints "
             f"that stay and the one that is being written{f', {there} are there' if there else ''}")
    if free < needed:
        verdict = "fail" if free < one else "warn"
        return Check("room", verdict, found, "make room, lower checkpoint.keep_last, or choose another run.dir")
    return Check("room", "ok", found + " (a quota is not in this number)")


def memory(config: Config, architecture: Architecture, gpu: Gpu, *, processes: int) -> Check:
    """Whether the fullest GPU holds its part, by the model of `megatron_ft.plan`."""
    one = estimate(config, architecture, gpu, processes=processes)
    share = one.fullest.total / gpu.memory_bytes
    found = (f"{gpu.name}: the fullest (stage {one.fullest.stage}) needs {one.fullest.total / GIB:.1f} of "
             f"{gpu.memory_bytes / GIB:.1f} GiB ({share:.0%})")
    advice = "see the layouts that fit: python -m megatron_ft.plan CONFIG --gpus N --gpu NAME --search"
    if not one.fits:
        return Check("GPU memory", "fail", found, advice)
    return Check("GPU memory", "warn" if share > TIGHT else "ok", found, advice if share > TIGHT else "")

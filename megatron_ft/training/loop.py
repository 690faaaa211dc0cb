"""A training run from its checked setup to its last checkpoint."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_ft import cli, log
from megatron_ft.errors import TrainingError
from megatron_ft.runtime import agreement, groups
from megatron_ft.runtime.checkpoint_layout import Manifest
from megatron_ft.runtime.device import Device
from megatron_ft.runtime.groups import Place
from megatron_ft.training import checkpoint, hf_weights, kernels, lora, model, optimizer, resume, run_folder, spikes, step
from megatron_ft.training.ending import End, Ending
from megatron_ft.training.metrics import Metrics
from megatron_ft.training.progress import Progress
from megatron_ft.training.saver import Saver
from megatron_ft.training.schedule import learning_rate
from megatron_ft.training.setup import Setup

Guard = Callable[[Place], AbstractContextManager[Any]]
DOCUMENTS_NAMED = 10


def train(setup: Setup, device: Device, *, ending: Ending | None = None, guard: Guard = contextlib.nullcontext) -> End:
    """Train, validate and checkpoint until the plan's last step, or until something ends the run before it; how it ended.

    Args:
        ending: what can end it from outside; none: nothing does.
        guard: entered with the place for as long as the ranks depend on each other (`dead_rank.watch`).
    """
    config, plan, ending = setup.config, setup.plan, ending or Ending()
    with groups.start(setup.process, device, config.parallel, timeout_minutes=config.runtime.timeout_minutes) as place, \
            guard(place), contextlib.ExitStack() as stack:
        chunks, adam, progress = start(setup, place)
        stack.callback(step.release, chunks)
        saver = stack.enter_context(Saver(setup.checkpoints, config.checkpoint, hf_source=setup.base.hf_files,
                                          resumed=progress.step, keeps_best=config.validation.patience > 0))
        metrics = stack.enter_context(Metrics(config, plan, setup.architecture, place, first_step=progress.step,
                                              validates=validation_is_due(setup, progress)))
        watch = spikes.Spikes(Path(config.run.dir), factor=config.log.spike_factor, place=place)
        setup.loader.position, saved = progress.rows, progress
        ending.begin(agreement.totals(ending.told()))
        while True:
            if validation_is_due(setup, progress) and not ending.agreed:
                progress = validate(setup, chunks, place, metrics, ending, progress)
            end = end_of(setup, progress, ending)
            saver.poll()
            is_due = due(progress.step, config.checkpoint.every_steps, plan.steps)
            is_new = progress.step != saved.step or (end is not None and progress.step > 0 and progress != saved)
            if is_new and (is_due or end is not None or saver.overdue_since is not None):
                metrics.phase("saving", progress.step)
                save(setup, saver, chunks, adam, progress, due=is_due, last=end is not None)
                metrics.event("checkpoint", progress.step)
                saved, ending.save_s = progress, saver.longest_s
            if end is not None:
                break
            metrics.phase("training", progress.step)
            started = time.perf_counter()
            rate = learning_rate(progress.step, config.optim, steps=plan.steps, warmup_steps=plan.warmup_steps)
            optimizer.set_learning_rate(adam, rate, config.optim.weight_decay)
            groups.seed(step_seed(config.run.seed, progress.step), place)
            batches = next(setup.loader)
            data_seconds = time.perf_counter() - started
            result = step.train_step(chunks, adam, batches, weighting=config.loss.weighting, place=place, ending=ending)
            seconds = time.perf_counter() - started
            ending.took(seconds)
            progress = progress.after_step(rows=setup.loader.position, updated=result.updated, loss=result.totals.loss,
                                           loss_scale=result.loss_scale)
            watch.step(progress.step, result, batches)
            metrics.step(progress.step, result, rate=rate, seconds=seconds, data_seconds=data_seconds,
                         epoch=setup.loader.epoch, skipped=progress.skipped)
            stop_if_failing(setup, progress, result)
        metrics.end(progress.step, why=end.why, exit_code=end.exit_code)
    log.get().info("%s%s", end.why, f"; checkpoint in {setup.checkpoints}" if progress.step else "; nothing to save yet")
    return end


def start(setup: Setup, place: Place) -> tuple[list[DistributedDataParallel], MegatronOptimizer, Progress]:
    """Model and optimizer with their state: the run's newest checkpoint, or on the first start the base model."""
    config = setup.config
    chosen = kernels.choose(place.device, config.runtime.kernels, lora=config.lora.rank > 0)
    log.get().info(chosen.describe())
    for line in setup.plan.lines():
        log.get().info(line)
    resume_from = resume.choose(setup.saved)
    bare = model.build(setup.architecture, parallel=config.parallel, model=config.model, memory=config.memory,
                       device=place.device, kernels=chosen)
    if resume_from is None or config.lora.rank:
        load_base(setup, bare)
    if config.lora.rank:
        for chunk in bare:
            lora.apply(chunk, config.lora, seed=config.run.seed)
        log.get().info(lora.describe(config.lora, setup.architecture))
    chunks = optimizer.wrap(bare, config)
    adam = optimizer.build(chunks, config)
    step.prepare(chunks, adam)
    progress = Progress(step=0, rows=0)
    if resume_from is not None:
        progress = checkpoint.load_run(chunks, adam, resume_from)
        log.get().info("resumed %s: step %d of %d", resume_from, progress.step, setup.plan.steps)
    if place.rank == 0:
        Path(config.run.dir).mkdir(parents=True, exist_ok=True)
        cli.write_text_atomically(Path(config.run.dir) / "config.toml", config.to_toml())
    return chunks, adam, progress


def load_base(setup: Setup, chunks: list[torch.nn.Module]) -> None:
    """The base model's weights, from a checkpoint or from a Hugging Face folder as it is."""
    started = time.perf_counter()
    if setup.base.manifest is None:
        hf_weights.load(chunks, setup.base.folder, setup.architecture)
    else:
        checkpoint.load_model(chunks, setup.base.folder)
    log.get().info("base model: %s, loaded in %.1f s", setup.base.folder, time.perf_counter() - started)


def validation_is_due(setup: Setup, progress: Progress) -> bool:
    """Before the first step, every so many steps and after the last; again where one was broken off before a resume."""
    number, every = progress.step, setup.config.validation.every_steps
    return bool(setup.valid) and progress.validated != number and (number == 0 or due(number, every, setup.plan.steps))


def validate(setup: Setup, chunks: list[DistributedDataParallel], place: Place, metrics: Metrics, ending: Ending,
             progress: Progress) -> Progress:
    """The losses over all held-out rows and over those of each tag; broken off, and not counted, where the run is to end."""
    by_tag = {}
    for tag, rows in setup.valid.items():
        limited = metrics.in_phase("validating", progress.step,
                                   itertools.islice(rows, setup.config.validation.max_steps or len(rows)))
        by_tag[tag] = step.validate(chunks, limited, weighting=setup.config.loss.weighting, place=place, ending=ending)
        if ending.agreed:
            return progress
    metrics.validation(progress.step, by_tag)
    return progress.after_validation(step.Totals.sum(by_tag.values()).loss)


def end_of(setup: Setup, progress: Progress, ending: Ending) -> End | None:
    """Why the run ends here, or None: it is done, no longer gets better, or was told to."""
    number, steps, patience = progress.step, setup.plan.steps, setup.config.validation.patience
    if number >= steps and not validation_is_due(setup, progress):
        return End(f"done: {steps} steps", cli.EXIT_OK)
    if patience and progress.worse_in_row >= patience:
        best = "none was finite" if progress.best_loss is None else (
            f"the best was {progress.best_loss:.4f} after step {progress.best_step}")
        return End(f"done after step {number} of {steps}: the validation loss has not improved for {progress.worse_in_row} "
                   f"validations (validation.patience), {best}", cli.EXIT_OK)
    return ending.agreed and End(f"ended after step {number} of {steps}: {ending.agreed.why}", ending.agreed.exit_code)


def save(setup: Setup, saver: Saver, chunks: list[DistributedDataParallel], adam: MegatronOptimizer, progress: Progress, *,
         due: bool = True, last: bool = False) -> None:
    """One checkpoint of the run, with what says how it was made and what the way back to Hugging Face needs.

    Args:
        due: False to make up for an earlier one that there was no room for.
        last: none will follow: return when it is complete.
    """
    config, parallel = setup.config, setup.config.parallel
    rows = model.padded_vocabulary(setup.architecture.vocabulary, multiple=config.model.vocabulary_multiple, tp=parallel.tp)
    manifest = Manifest(architecture=setup.architecture, stored_vocabulary=rows, iteration=progress.step,
                        dtype=resume.WEIGHT_DTYPES[config.model.precision], source=setup.source(),
                        progress={"epoch": setup.loader.epoch}, optimizer_state=resume.state_names(config),
                        layout={"tp": parallel.tp, "pp": parallel.pp, "dp": setup.plan.dp,
                                "virtual_stages": parallel.virtual_stages})
    saver.save(chunks, adam, progress, manifest=manifest, due=due, last=last)


def due(number: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps, and after the last, happens after step `number`.

    >>> [number for number in range(1, 8) if due(number, 3, 7)], [number for number in range(1, 8) if due(number, 0, 7)]
    ([3, 6, 7], [7])
    """
    return number == last or (every > 0 and number % every == 0)


def step_seed(seed: int, number: int) -> int:
    """Dropout's seed in one step: a function of the step alone, so that a resumed run draws what it would have drawn."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint32)[0]) >> 1


def stop_if_failing(setup: Setup, progress: Progress, result: step.StepResult) -> None:
    """TrainingError, on all ranks, after run.max_skipped_steps skipped steps in a row; it names their rows and documents."""
    config, failures, loader = setup.config, progress.failures_in_row, setup.loader
    if failures < config.run.max_skipped_steps:
        return
    first = max(0, progress.rows - failures * setup.plan.rows_per_step)
    documents = [loader.selection.identity(index) for row in range(first, progress.rows) for index in loader.epochs.row(row)]
    named = ", ".join(f"{number} of {prefix}" for prefix, number in documents[:DOCUMENTS_NAMED])
    more = f" and {len(documents) - DOCUMENTS_NAMED} more" if len(documents) > DOCUMENTS_NAMED else ""
    raise TrainingError(f"step {progress.step}: loss {result.totals.loss}, gradient norm {result.grad_norm}: not finite, as in "
                        f"all of the last {failures} steps (run.max_skipped_steps); weights are as before them, and so is the "
                        f"last checkpoint in {setup.checkpoints}. They had rows {first}..{progress.rows - 1}: documents {named}"
                        f"{more}; all with their losses are in {Path(config.run.dir) / run_folder.SPIKES}. Look at these, or "
                        f"lower optim.lr ({config.optim.lr})")

"""A training run from its checked setup to its last checkpoint."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from pathlib import Path

import numpy as np
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_ft import cli, log
from megatron_ft.errors import TrainingError
from megatron_ft.runtime import groups
from megatron_ft.runtime.checkpoint_layout import HF_FOLDER, Manifest
from megatron_ft.runtime.device import Device
from megatron_ft.runtime.groups import Place
from megatron_ft.training import checkpoint, kernels, model, optimizer, resume, spikes, step
from megatron_ft.training.checkpoint import Progress
from megatron_ft.training.metrics import Metrics
from megatron_ft.training.saver import Saver
from megatron_ft.training.schedule import learning_rate
from megatron_ft.training.setup import Setup


def train(setup: Setup, device: Device) -> None:
    """Train, validate and checkpoint until the plan's last step."""
    config, plan = setup.config, setup.plan
    with groups.start(setup.process, device, config.parallel, timeout_minutes=config.runtime.timeout_minutes) as place, \
            contextlib.ExitStack() as ending:
        chunks, adam, progress = start(setup, place)
        saver = ending.enter_context(Saver(setup.checkpoints, config.checkpoint, hf_source=setup.base / HF_FOLDER,
                                           resumed=progress.step))
        metrics = Metrics(config, plan, setup.architecture, place, first_step=progress.step)
        watch = spikes.Spikes(Path(config.run.dir), factor=config.log.spike_factor, place=place)
        setup.loader.position = progress.rows
        if progress.step == 0:
            validate(setup, chunks, place, metrics, number=0)
        for number in range(progress.step, plan.steps):
            started = time.perf_counter()
            rate = learning_rate(number, config.optim, steps=plan.steps, warmup_steps=plan.warmup_steps)
            optimizer.set_learning_rate(adam, rate, config.optim.weight_decay)
            groups.seed(step_seed(config.run.seed, number), place)
            batches = next(setup.loader)
            data_seconds = time.perf_counter() - started
            result = step.train_step(chunks, adam, batches, weighting=config.loss.weighting, place=place)
            seconds = time.perf_counter() - started
            watch.step(number + 1, result, batches)
            _require_finite(setup, result, number + 1)
            metrics.step(number + 1, result, rate=rate, seconds=seconds, data_seconds=data_seconds, epoch=setup.loader.epoch)
            if due(number + 1, config.validation.every_steps, plan.steps):
                validate(setup, chunks, place, metrics, number=number + 1)
            saver.poll()
            is_due = due(number + 1, config.checkpoint.every_steps, plan.steps)
            if is_due or saver.overdue_since is not None:
                save(setup, saver, chunks, adam, Progress(number + 1, setup.loader.position), due=is_due,
                     last=number + 1 == plan.steps)
                metrics.event("checkpoint", number + 1)
        metrics.close()
        log.get().info("done: %d steps; checkpoint in %s", plan.steps, setup.checkpoints)


def start(setup: Setup, place: Place) -> tuple[list[DistributedDataParallel], MegatronOptimizer, Progress]:
    """Model and optimizer with their state: the run's newest checkpoint, or on the first start the base model."""
    config = setup.config
    chosen = kernels.choose(place.device)
    log.get().info(chosen.describe())
    for line in setup.plan.lines():
        log.get().info(line)
    resume_from = resume.choose(setup.saved)
    bare = model.build(setup.architecture, parallel=config.parallel, model=config.model, memory=config.memory,
                       device=place.device, kernels=chosen)
    if resume_from is None:
        log.get().info("base model: %s", setup.base)
        checkpoint.load_model(bare, setup.base)
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


def validate(setup: Setup, chunks: list[DistributedDataParallel], place: Place, metrics: Metrics, *,
             number: int) -> step.Totals | None:
    """The totals over all held-out rows, and those of each tag into the metrics; None where nothing is held out."""
    if not setup.valid:
        return None
    by_tag = {}
    for tag, rows in setup.valid.items():
        limited = itertools.islice(rows, setup.config.validation.max_steps or len(rows))
        by_tag[tag] = step.validate(chunks, limited, weighting=setup.config.loss.weighting, place=place)
    metrics.validation(number, by_tag)
    return step.Totals.sum(by_tag.values())


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


def _require_finite(setup: Setup, result: step.StepResult, number: int) -> None:
    if math.isfinite(result.totals.loss) and math.isfinite(result.grad_norm) and result.updated:
        return
    last = setup.loader.position
    raise TrainingError(f"step {number}: loss {result.totals.loss}, gradient norm {result.grad_norm}: not finite; the last "
                        f"checkpoint in {setup.checkpoints} is untouched. Look at rows {last - setup.plan.rows_per_step}.."
                        f"{last - 1}, or lower optim.lr ({setup.config.optim.lr})")

"""What the worker processes of the training tests run; each is called on every rank with its Process first."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import queue
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_ft.config import Model, Parallel, parse
from megatron_ft.runtime.device import Process


def logits(process: Process, *, checkpoint: str, parallel: dict[str, Any], lengths: list[int],
           only: int | None = None) -> np.ndarray | None:
    """float32 [T, V] of one packed row of random documents, or of one of them alone; None on ranks without logits."""
    from megatron_ft.conversion import verify_logits
    from megatron_ft.runtime import checkpoint_layout, groups

    folder = checkpoint_layout.find(checkpoint)
    architecture = checkpoint_layout.Manifest.read(folder).architecture
    layout = Parallel(**parallel)
    with groups.start(process, "cpu", layout, timeout_minutes=2) as place:
        documents = verify_logits.random_documents(architecture, lengths)
        chosen = documents if only is None else [documents[only]]
        found = verify_logits.megatron_logits(lambda stage: verify_logits.load_checkpoint(stage, folder), architecture, chosen,
                                              parallel=layout, place=place)
        return found.numpy() if found is not None and place.tp_rank == 0 else None


def gradients(process: Process, *, checkpoint: str, parallel: dict[str, Any], rows: list[list[tuple[list[int], list[bool]]]],
              row_tokens: int, weighting: str, rows_per_micro_batch: int, output: str) -> float:
    """Mean loss of one step; its gradients are written as a checkpoint at `output`, in place of the weights."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.distributed import finalize_model_grads

    from megatron_ft.config import Config
    from megatron_ft.runtime import checkpoint_layout, groups
    from megatron_ft.training import checkpoint as checkpoints
    from megatron_ft.training import model, optimizer, step

    folder = checkpoint_layout.find(checkpoint)
    manifest = checkpoint_layout.Manifest.read(folder)
    layout = Parallel(**parallel, distributed_optimizer=False)
    config: Config = Config.model_construct(parallel=layout)
    with groups.start(process, "cpu", layout, timeout_minutes=2) as place:
        [stage] = model.build(manifest.architecture, parallel=layout, device="cpu",
                              model=Model(precision="fp32", hidden_dropout=0, attention_dropout=0))
        checkpoints.load_model([stage], folder)
        [wrapped] = optimizer.wrap([stage], config)
        stage.config.finalize_model_grads_func = finalize_model_grads
        stage.config.grad_scale_func = None
        wrapped.train()
        wrapped.zero_grad_buffer()
        batches = micro_batches(rows, row_tokens, weighting, rows_per_micro_batch, place.dp_rank, place.dp_size)
        totals = step.run([wrapped], batches, weighting=weighting, place=place)
        with torch.no_grad():
            for parameter in stage.parameters():
                parameter.copy_(parameter.main_grad)
        if place.rank == 0:
            Path(output).mkdir(parents=True)
        torch.distributed.barrier()
        filesystem_async._results_queue = queue.Queue()  # as in checkpoint.save_run
        dist_checkpointing.save({"model": stage.sharded_state_dict()}, output)
        if place.rank == 0:
            (Path(output) / "hf").symlink_to(folder / "hf")
            rows_stored = model.padded_vocabulary(manifest.architecture.vocabulary, multiple=128, tp=layout.tp)
            checkpoint_layout.Manifest(manifest.architecture, rows_stored, "float32").write(output)
        return totals.loss


def micro_batches(rows: list[list[tuple[list[int], list[bool]]]], row_tokens: int, weighting: str, size: int, dp_rank: int,
                  dp_size: int) -> list[Any]:
    """This rank's micro-batches of rows given as lists of documents (ids, supervised)."""
    from megatron_ft.data.loader import Share, make_batch

    documents = [document for row in rows for document in row]
    numbers = iter(range(len(documents)))
    numbered = [[next(numbers) for _ in row] for row in rows]
    share = Share(len(rows), size, dp_rank, dp_size)
    selection = _Documents(documents, row_tokens)
    return [make_batch(selection, chosen, weighting=weighting) for chosen in share.micro_batches(numbered)]


class _Documents:
    """Stands for data.selection.Selection over documents in memory."""

    end_of_text = 0

    def __init__(self, documents: list[tuple[list[int], list[bool]]], row_tokens: int) -> None:
        self.row_tokens, self._documents = row_tokens, documents

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        ids, supervised = self._documents[index]
        return np.array(ids), np.array(supervised)

    def identity(self, index: int) -> tuple[str, int]:
        return "memory", index


def train(process: Process, *, config: dict[str, Any], stop_after: int | None = None) -> list[str]:
    """A whole run, as `python -m megatron_ft.train` does it; with `stop_after` it dies after that many steps.

    Returns the command lines of processes that it has started and left running.
    """
    import psutil

    from megatron_ft.training import loop, setup, step

    checked = setup.prepare(parse(config), process)
    if stop_after is None:
        before = set(psutil.Process().children(recursive=True))
        loop.train(checked, "cpu")
        return [" ".join(child.cmdline()) for child in set(psutil.Process().children(recursive=True)) - before]
    original, done = step.train_step, []

    def dying(*arguments: Any, **named: Any) -> Any:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(1)
        return original(*arguments, **named)

    step.train_step = dying
    try:
        loop.train(checked, "cpu")
    except KeyboardInterrupt:
        pass
    finally:
        step.train_step = original
    return []


def curves(process: Process, *, config: dict[str, Any],
           layouts: list[dict[str, dict[str, Any]]]) -> list[list[tuple[float, float]]]:
    """(loss, gradient norm) of each step of one run after the other, each with its own parallel and memory settings.

    Nothing is saved.
    """
    from megatron.core import parallel_state

    from megatron_ft.runtime import groups
    from megatron_ft.training import setup
    from tests.processes import release

    found = []
    with groups.start(process, "cpu", Parallel(), timeout_minutes=2):
        for layout in layouts:
            parallel_state.destroy_model_parallel()
            checked = setup.prepare(parse({**config, **layout}), process)
            with groups.layout(checked.config.parallel, "cpu") as place:
                found.append(_curve(checked, place))
            release()
    return found


def _curve(checked: Any, place: Any) -> list[tuple[float, float]]:
    from megatron_ft.runtime import groups
    from megatron_ft.training import loop, optimizer, step
    from megatron_ft.training.schedule import learning_rate

    config, steps = checked.config, checked.plan.steps
    chunks, adam, _ = loop.start(checked, place)
    results = []
    for number in range(steps):
        rate = learning_rate(number, config.optim, steps=steps, warmup_steps=checked.plan.warmup_steps)
        optimizer.set_learning_rate(adam, rate, config.optim.weight_decay)
        groups.seed(loop.step_seed(config.run.seed, number), place)
        results.append(step.train_step(chunks, adam, next(checked.loader), weighting=config.loss.weighting, place=place))
    return [(result.totals.loss, result.grad_norm) for result in results]


def decayed_parameters(process: Process, *, config: dict[str, Any]) -> list[str]:
    """Names of the parameters whose weight decay is not zero."""
    from megatron_ft.runtime import groups
    from megatron_ft.training import loop, setup

    checked = setup.prepare(parse({**config, "parallel": {"distributed_optimizer": False}}), process)
    with groups.start(process, "cpu", checked.config.parallel, timeout_minutes=2) as place:
        [chunk], adam, _ = loop.start(checked, place)
        names = {id(parameter): name for name, parameter in chunk.named_parameters()}
        return [names[id(parameter)] for group in adam.param_groups if group["wd_mult"] for parameter in group["params"]]


def left_behind(process: Process, *, configs: list[dict[str, Any]], ports: list[int]) -> list[tuple[int, int]]:
    """(models, gloo's threads) that this process still has after each of these runs, one after the other.

    Models that tests before have left are not counted.
    """
    from megatron.core.distributed import DistributedDataParallel

    from megatron_ft.training import loop, setup

    def models() -> int:
        gc.collect()
        return sum(type(each) is DistributedDataParallel for each in gc.get_objects())

    before, found = models(), []
    for config, port in zip(configs, ports, strict=True):
        loop.train(setup.prepare(parse(config), dataclasses.replace(process, port=port)), "cpu")
        found.append((models() - before, gloo_threads()))
    return found


def threads_of_layouts(process: Process, *, layouts: list[dict[str, Any]]) -> list[int]:
    """How many threads gloo has after each of these layouts of the same processes, one after the other."""
    from megatron.core import parallel_state

    from megatron_ft.runtime import groups

    found = []
    with groups.start(process, "cpu", Parallel(), timeout_minutes=2):
        parallel_state.destroy_model_parallel()
        for parallel in layouts:
            with groups.layout(Parallel(**parallel), "cpu"):
                pass
            found.append(gloo_threads())
    return found


def gloo_threads() -> int:
    """Threads of this process that belong to process groups over gloo."""
    found = 0
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            found += "gloo" in path.read_text()
    return found

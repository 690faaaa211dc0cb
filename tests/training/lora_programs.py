"""LoRA in the worker processes, and a LoRA checkpoint with random adapters, made without the training code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_ft.config import Lora, Model, Parallel
from megatron_ft.runtime.device import Process


def write_adapters(base: Path, output: Path, lora: Lora, *, dtype: torch.dtype = torch.float32) -> Path:
    """A complete LoRA checkpoint on top of checkpoint root `base`, its A and B random; gives its folder."""
    from megatron_ft.conversion.torch_dist import TorchDistSink
    from megatron_ft.families import get, rules
    from megatron_ft.runtime import checkpoint_layout, lora_layout

    release = checkpoint_layout.find(base)
    whole = checkpoint_layout.Manifest.read(release)
    folder = output / "iter_0000007"
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(5)
    shapes = {}
    for weight in rules.weights(get(whole.family).RULES, whole.architecture):
        if weight.megatron.endswith(tuple(f".{module}.weight" for module in lora_layout.adapted(lora))):
            rows, columns = weight.megatron_shape
            a, b = lora_layout.adapter_names(weight.megatron)
            shapes[a], shapes[b] = (lora.rank, columns), (rows, lora.rank)
    sink = TorchDistSink(folder, shapes, dtype, layers=whole.architecture.layers)
    for name, shape in shapes.items():
        writing = sink.chunk(name)
        writing.write(0, (torch.randn(shape, generator=random) / shape[1] ** 0.5).to(dtype))
        writing.finish()
    sink.close()
    checkpoint_layout.Manifest(whole.architecture, whole.stored_vocabulary, str(dtype).removeprefix("torch."), iteration=7,
                               source={"base": str(release), **lora_layout.source(lora, release)}).write(folder)
    (folder / "hf").symlink_to(release / "hf")
    checkpoint_layout.set_latest(output, 7)
    return folder


def gradients(process: Process, *, checkpoint: str, parallel: dict[str, Any], memory: dict[str, Any], rows: Any,
              row_tokens: int, output: str) -> float:
    """Mean loss of one step with adapters on top of their base; their gradients are written as a LoRA checkpoint."""
    import queue

    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.distributed import finalize_model_grads

    from megatron_ft.config import Config, Memory
    from megatron_ft.runtime import checkpoint_layout, groups, lora_layout
    from megatron_ft.training import checkpoint as checkpoints
    from megatron_ft.training import lora, model, optimizer, step
    from tests.training.programs import micro_batches

    folder = checkpoint_layout.find(checkpoint)
    manifest = checkpoint_layout.Manifest.read(folder)
    layout = Parallel(**parallel, distributed_optimizer=False)
    with groups.start(process, "cpu", layout, timeout_minutes=2) as place:
        [stage] = model.build(manifest.architecture, parallel=layout, device="cpu", memory=Memory(**memory),
                              model=Model(precision="fp32", hidden_dropout=0, attention_dropout=0))
        checkpoints.load_model([stage], Path(manifest.source["base"]))
        lora.apply(stage, lora_layout.of(manifest), seed=3)
        checkpoints.load_model([stage], folder)
        [wrapped] = optimizer.wrap([stage], Config.model_construct(parallel=layout))
        stage.config.finalize_model_grads_func = finalize_model_grads
        stage.config.grad_scale_func = None
        wrapped.train()
        wrapped.zero_grad_buffer()
        batches = micro_batches(rows, row_tokens, "token", 1, place.dp_rank, place.dp_size)
        totals = step.run([wrapped], batches, weighting="token", place=place)
        with torch.no_grad():
            for parameter in stage.parameters():
                if parameter.requires_grad:
                    parameter.copy_(parameter.main_grad)
        if place.rank == 0:
            Path(output).mkdir(parents=True)
        torch.distributed.barrier()
        filesystem_async._results_queue = queue.Queue()  # as in checkpoint.save_run
        dist_checkpointing.save(checkpoints.model_state([stage]), output)
        if place.rank == 0:
            manifest.write(Path(output))
        return totals.loss


def first_adapters(process: Process, *, checkpoint: str, parallel: dict[str, Any],
                   lora: dict[str, Any]) -> dict[str, np.ndarray]:
    """The new adapters of this rank's stage, by their names in the whole model."""
    from megatron_ft.runtime import checkpoint_layout, groups
    from megatron_ft.training import lora as adapters
    from megatron_ft.training import model

    folder = checkpoint_layout.find(checkpoint)
    architecture = checkpoint_layout.Manifest.read(folder).architecture
    layout = Parallel(**parallel)
    with groups.start(process, "cpu", layout, timeout_minutes=2) as place:
        [stage] = model.build(architecture, parallel=layout, device="cpu", model=Model(precision="fp32"))
        adapters.apply(stage, Lora(**lora), seed=3)
        first = place.pp_rank * architecture.layers // layout.pp
        found = {}
        for name, parameter in stage.named_parameters():
            if parameter.requires_grad:
                words = name.split(".")
                found[".".join([*words[:2], str(int(words[2]) + first), *words[3:]])] = parameter.detach().numpy()
        return found


def what_training_changes(process: Process, *, config: dict[str, Any]) -> dict[str, Any]:
    """Of this rank after two steps: parameters by what became of them, and numbers in its buffers and optimizer state."""
    from megatron_ft.config import parse
    from megatron_ft.runtime import groups
    from megatron_ft.training import loop, optimizer, optimizer_state, setup, step
    from megatron_ft.training.model import unwrap

    checked = setup.prepare(parse(config), process)
    with groups.start(process, "cpu", checked.config.parallel, timeout_minutes=2) as place:
        chunks, adam, _ = loop.start(checked, place)
        optimizer.set_learning_rate(adam, 1e-2, 0.1)
        parameters = dict(unwrap(chunks[0]).named_parameters())
        before = {name: parameter.clone() for name, parameter in parameters.items()}
        for _ in range(2):  # in the first, A has no gradient, since B is zero
            step.train_step(chunks, adam, next(checked.loader), weighting="token", place=place)
        with optimizer.whole_weights(chunks):
            unchanged = {name for name, parameter in parameters.items() if torch.equal(parameter, before[name])}
        optimizer_state.fill(adam)
        states = [state for part in optimizer_state.parts(adam) for state in part.optimizer.state.values()]
        return {"unchanged": sorted(unchanged),
                "changed": {name: each.numel() for name, each in parameters.items() if name not in unchanged},
                "trained": {name: each.numel() for name, each in parameters.items() if each.requires_grad},
                "buffered": sum(buffer.numel for buffer in chunks[0].buffers),
                "moments": sum(state["exp_avg"].numel() for state in states), "owners": place.dp_size}


def dropped(process: Process, *, checkpoint: str, parallel: dict[str, Any], lora: dict[str, Any]) -> dict[str, np.ndarray]:
    """Of the first layer's adapters in a training pass: what of an input of ones their dropout lets through."""
    from megatron_ft.runtime import checkpoint_layout, groups
    from megatron_ft.training import lora as adapters
    from megatron_ft.training import model

    folder = checkpoint_layout.find(checkpoint)
    architecture = checkpoint_layout.Manifest.read(folder).architecture
    layout = Parallel(**parallel)
    with groups.start(process, "cpu", layout, timeout_minutes=2) as place:
        [stage] = model.build(architecture, parallel=layout, device="cpu",
                              model=Model(precision="fp32", hidden_dropout=0, attention_dropout=0))
        adapters.apply(stage, Lora(**lora), seed=3)
        stage.train()
        found: dict[str, np.ndarray] = {}
        for name, module in stage.decoder.layers[0].named_modules():
            if isinstance(module, adapters.Adapter):
                short, original = name.split(".")[1].removesuffix("_adapter"), module._dropped

                def kept(tensor: torch.Tensor, short: str = short, original: Any = original) -> torch.Tensor:
                    found[short] = original(torch.ones(12, 1, 10)).numpy()
                    return tensor

                module._dropped = kept
        for parameter in stage.parameters():
            torch.nn.init.zeros_(parameter)
        groups.seed(4, place)
        ids = torch.zeros(1, 24, dtype=torch.int64)
        stage(input_ids=ids, position_ids=torch.arange(24)[None], attention_mask=None,
              packed_seq_params=model.packed(torch.tensor([0, 24], dtype=torch.int32), 24))
        return found

"""What the worker processes of the checkpoint tests run; each is called on every rank with its Process first."""

from __future__ import annotations

from typing import Any

from megatron_ft.config import Memory, Model, Parallel
from megatron_ft.runtime.device import Process


def weights_that_differ(process: Process, *, hf: str, checkpoint: str, cases: list[dict[str, Any]]) -> list[str]:
    """Weights whose bits differ between the Hugging Face folder loaded as it is and its conversion loaded, in any case.

    Args:
        cases: of "parallel" and "precision".
    """
    from megatron.core import parallel_state

    from megatron_ft.runtime import groups
    from megatron_ft.training import base_model

    direct, converted = base_model.find(hf), base_model.find(checkpoint)
    assert direct.architecture == converted.architecture
    base_model.check(direct)
    found = []
    with groups.start(process, "cpu", Parallel(), timeout_minutes=2):
        for case in cases:
            parallel_state.destroy_model_parallel()
            with groups.layout(Parallel(**case["parallel"]), "cpu"):
                found += [f"{case}: {name}" for name in _differing(direct, converted, **case)]
    return found


def _differing(direct: Any, converted: Any, *, parallel: dict[str, Any], precision: str) -> list[str]:
    import torch

    from megatron_ft.training import hf_weights, model
    from megatron_ft.training.checkpoint import load_model

    sides = []
    for base in (direct, converted):
        chunks = model.build(base.architecture, parallel=Parallel(**parallel), device="cpu", memory=Memory(),
                             model=Model(precision=precision, vocabulary_multiple=8))
        with torch.no_grad():
            for chunk in chunks:
                for parameter in chunk.parameters():
                    parameter.fill_(float("nan"))
        if base is direct:
            hf_weights.load(chunks, base.folder, base.architecture)
        else:
            load_model(chunks, base.folder)
        sides.append([(name, parameter) for chunk in chunks for name, parameter in chunk.named_parameters()])
    return [name for (name, left), (_, right) in zip(*sides, strict=True) if not torch.equal(left, right)]

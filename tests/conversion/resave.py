"""In the worker processes of test_layouts: loads converted weights into megatron-core at a layout, saves them anew.

ROOT/<name> is a checkpoint root made by hf_to_megatron; ROOT/<name>-tpT-ppP becomes what megatron-core saves.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from megatron_ft.config import Model, Parallel
from megatron_ft.families import get, rules
from megatron_ft.runtime import checkpoint_layout
from megatron_ft.runtime.device import Process


def resave_all(process: Process, *, root: str, names: list[str], tp: int, pp: int) -> None:
    """Load `release` of each into a model full of NaN, see that none is left, save, and mark as ours."""
    from megatron_ft.runtime import groups

    parallel = Parallel(tp=tp, pp=pp)
    with groups.start(process, "cpu", parallel, timeout_minutes=5):
        for name in names:
            resave(Path(root), name, parallel)


def resave(root: Path, name: str, parallel: Parallel) -> None:
    """One model at one layout."""
    import torch
    from megatron.core import dist_checkpointing

    from megatron_ft.training import checkpoint, model

    folder = checkpoint_layout.find(root / name)
    manifest = checkpoint_layout.Manifest.read(folder)
    [stage] = model.build(manifest.architecture, parallel=parallel, model=Model(precision="fp32"), device="cpu")
    if parallel.tp == parallel.pp == 1:
        listed = {weight.megatron for weight in rules.weights(get(manifest.family).RULES, manifest.architecture)}
        assert listed == {parameter for parameter, _ in stage.named_parameters()}, f"rules and GPTModel differ for {name}"
    for parameter in stage.parameters():
        parameter.data.fill_(float("nan"))
    checkpoint.load_model([stage], folder)
    wrong = [parameter for parameter, values in stage.named_parameters() if values.isnan().any()]
    assert not wrong, f"not loaded: {wrong}"
    target = root / f"{name}-tp{parallel.tp}-pp{parallel.pp}"
    first = torch.distributed.get_rank() == 0
    if first:
        target.mkdir()
    torch.distributed.barrier()
    dist_checkpointing.save({"model": stage.sharded_state_dict()}, str(target))
    if first:
        import dataclasses

        dataclasses.replace(manifest, files={}, tensor_crc32={}).write(target)
        shutil.copytree(folder / checkpoint_layout.HF_FOLDER, target / checkpoint_layout.HF_FOLDER)
    torch.distributed.barrier()


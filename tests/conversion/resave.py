"""Started on 4 processes by test_layouts: loads converted weights into megatron-core at other layouts, saves them anew.

python -m torch.distributed.run --nproc-per-node 4 resave.py FOLDER

FOLDER/<variant> is a checkpoint root made by hf_to_megatron; FOLDER/<variant>-tpT-ppP becomes what megatron-core saves.
"""

import os
import sys
from pathlib import Path

from megatron_ft.config import Model, Parallel, Runtime
from megatron_ft.families import get, rules
from megatron_ft.runtime import checkpoint_layout, device
from tests.small_models import VARIANTS

# Saving takes seconds: two models at every layout, the others once. (tp, pp) -> models
SAVED = {(1, 1): ["llama-gqa"], (2, 1): ["llama-gqa", "starcoder-mqa"], (1, 2): ["starcoder-mqa"],
         (1, 4): ["llama-gqa"], (2, 2): ["-".join(variant) for variant in VARIANTS]}


def main(root: Path) -> None:
    process = device.process_of(dict(os.environ))
    chosen = device.prepare(Runtime(device="cpu", threads=1), process)
    from megatron.core import parallel_state

    from megatron_ft.runtime import groups

    with groups.start(process, chosen, Parallel(), timeout_minutes=5):
        check_names(root)
        for (tp, pp), names in SAVED.items():
            parallel_state.destroy_model_parallel()
            with groups.layout(Parallel(tp=tp, pp=pp), chosen):
                for name in names:
                    resave(root, name, Parallel(tp=tp, pp=pp))


def check_names(root: Path) -> None:
    """The rules of every model name exactly the parameters of its GPTModel."""
    from megatron_ft.training import model

    for variant in VARIANTS:
        architecture = checkpoint_layout.Manifest.read(root / "-".join(variant) / "release").architecture
        [whole] = model.build(architecture, parallel=Parallel(), model=Model(precision="fp32"), device="cpu")
        listed = {weight.megatron for weight in rules.weights(get(architecture.family).RULES, architecture)}
        assert listed == {name for name, _ in whole.named_parameters()}, f"rules and GPTModel differ for {variant}"


def resave(root: Path, name: str, parallel: Parallel) -> None:
    """Load `release` into a model full of NaN, see that none is left, save, and mark as ours."""
    import torch
    from megatron.core import dist_checkpointing

    from megatron_ft.training import checkpoint, model

    folder = checkpoint_layout.find(root / name)
    manifest = checkpoint_layout.Manifest.read(folder)
    [stage] = model.build(manifest.architecture, parallel=parallel, model=Model(precision="fp32"), device="cpu")
    for parameter in stage.parameters():
        parameter.data.fill_(float("nan"))
    checkpoint.load_model([stage], folder)
    wrong = [name for name, parameter in stage.named_parameters() if parameter.isnan().any()]
    assert not wrong, f"not loaded: {wrong}"
    target = root / f"{name}-tp{parallel.tp}-pp{parallel.pp}"
    if torch.distributed.get_rank() == 0:
        target.mkdir()
    torch.distributed.barrier()
    dist_checkpointing.save({"model": stage.sharded_state_dict()}, str(target))
    if torch.distributed.get_rank() == 0:
        manifest.write(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

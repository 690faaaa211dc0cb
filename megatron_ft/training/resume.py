"""Which checkpoint a run goes on from: the newest whole one of its own. Torch is loaded only where all ranks check it."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from megatron_ft import log
from megatron_ft.config import Config
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_files, lora_layout
from megatron_ft.runtime import checkpoint_layout as layout
from megatron_ft.runtime.checkpoint_files import Record, readable
from megatron_ft.training import flops
from megatron_ft.training.state_bytes import BYTES, FLOAT

WEIGHT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""model.precision -> the dtype of the stored weights, in a manifest's words."""
_ADVICE = ("a run is never started anew over its own checkpoints: bring one back, or set run.dir to a new folder to start from "
           "the base model (load.from)")


def find(root: Path, config: Config, architecture: Architecture, *, data_order: str, base: Path) -> tuple[Path, ...]:
    """The run's own checkpoints in the order in which to try them; empty on the first start.

    CheckpointError or ConfigError where they are another run's, and where there are some but none can be whole.
    """
    folders = layout.to_resume(root)[0]
    problems = []
    for folder in folders:
        try:
            missing = layout.missing_files(folder)
            if missing:
                raise CheckpointError(f"{folder.name}: {', '.join(missing)} missing")
            manifest = layout.Manifest.read(folder)
        except CheckpointError as error:
            problems.append(str(error))  # of use only if there is no other: `choose` says it again
        else:
            _check_same_run(folder, manifest, config, architecture, data_order)
            lora_layout.require_same(manifest, folder, config.lora, base)
    if folders and len(problems) == len(folders):
        raise CheckpointError(f"{root}: none of its checkpoints is whole ({'; '.join(problems)}); {_ADVICE}")
    return tuple(folders)


def choose(folders: Sequence[Path]) -> Path | None:
    """The first whole one, every file compared with its sum, each rank its share; None where there are none to try.

    `latest_checkpointed_iteration.txt` is set to it where it named another. Damaged ones are warned of and left where they
    are until the next checkpoint is complete. All ranks call it, and get the same.
    """
    import torch

    from megatron_ft.runtime import agreement

    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    passed_over: dict[str, str] = {}
    for folder in agreement.from_first(list(folders)):
        started = time.perf_counter()
        files, problems = agreement.from_first(_listed(folder) if rank == 0 else ({}, []))
        mine = checkpoint_files.share(files, rank=rank, ranks=ranks)
        problems = problems + sum(agreement.gather(checkpoint_files.damage(folder, mine)), [])
        if not problems:
            log.get().info("checked %s: %d files, %s, in %.1f s", folder, len(files),
                           readable(sum(record.bytes for record in files.values())), time.perf_counter() - started)
            agreement.together(lambda chosen=folder: _point_to(chosen, passed_over), kind=CheckpointError, first_only=True)
            return folder
        said = f"{problems[0]}{f' and {len(problems) - 1} more' if len(problems) > 1 else ''}"
        passed_over[folder.name] = said
        if rank == 0:
            log.get().warning("%s is damaged (%s): passed over for the one before it", folder, said)
    if passed_over:
        listed = "; ".join(f"{name}: {said}" for name, said in passed_over.items())
        raise CheckpointError(f"{folders[0].parent}: none of its checkpoints is whole ({listed}); {_ADVICE}")
    return None


def _listed(folder: Path) -> tuple[dict[str, Record], list[str]]:
    """The files that the manifest names, and what is wrong with it."""
    problems = [f"{name} is missing" for name in layout.missing_files(folder)]
    try:
        return ({}, problems) if problems else (layout.Manifest.read(folder).files, [])
    except CheckpointError as error:
        return {}, [str(error)]


def _point_to(folder: Path, passed_over: Collection[str]) -> None:
    """On rank 0: let `latest` name the checkpoint that the run goes on from, and say what else is there."""
    root, step = folder.parent, int(folder.name.removeprefix("iter_"))
    for sentence in layout.to_resume(root)[1]:
        log.get().warning("%s; the run goes on from %s", sentence, folder.name)
    newer = [layout.folder_name(other) for other in layout.saved_steps(root) if other > step]
    newer = [name for name in newer if name not in passed_over]
    if newer:
        log.get().warning("%s in %s: newer than %s, from which the run goes on; removed once a new checkpoint is complete, so "
                          "copy it elsewhere now if you need it", ", ".join(newer), root, folder.name)
    pointer = root / layout.LATEST_FILE
    if not pointer.is_file() or pointer.read_text(encoding="utf-8").strip() != str(step):
        layout.set_latest(root, step)


def _check_same_run(folder: Path, manifest: layout.Manifest, config: Config, architecture: Architecture,
                    data_order: str) -> None:
    if manifest.architecture != architecture:
        raise CheckpointError(f"{folder}: is a checkpoint of another model than load.from; use a new run.dir")
    before = manifest.source.get("data_order")
    if before != data_order:
        raise ConfigError(f"run.dir: {folder} was trained on data in the order {before}, this config gives {data_order}: "
                          "data.train or its weights, data.row_tokens, data.long_documents or run.seed differ (its own config "
                          "is in run.dir/config.toml); restore them, or start anew with another run.dir")
    names, found = state_names(config), manifest.optimizer_state
    if found and set(found) != set(names):
        raise ConfigError(f"run.dir: {folder} holds the optimizer state {', '.join(found)}, this config's has "
                          f"{', '.join(names) or 'none'}: optim.optimizer, optim.momentum or model.precision differ; restore "
                          "them, or start a new run.dir with load.from set to that checkpoint")
    dtype = WEIGHT_DTYPES[config.model.precision]
    if manifest.dtype != dtype:
        raise ConfigError(f"run.dir: {folder} holds {manifest.dtype} weights, but model.precision={config.model.precision} "
                          f"means {dtype}; restore it, or start a new run.dir with load.from set to that checkpoint")


def state_names(config: Config) -> tuple[str, ...]:
    """Names of the tensors that a checkpoint holds of each trained weight beside the weight: training.optimizer_state's."""
    moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    if config.optim.optimizer == "sgd":
        moments = ("momentum_buffer",) if config.optim.momentum else ()
    return moments if config.model.precision == "fp32" else (*moments, "fp32_param")


def bytes_of_one(config: Config, architecture: Architecture) -> int:
    """About what one checkpoint takes: the trained weights, and what the optimizer keeps of each (padding left out)."""
    trained = flops.adapter_weights(architecture, config.lora) if config.lora.rank else architecture.parameters
    return trained * (BYTES[config.model.precision] + FLOAT * len(state_names(config)))


def check_room(root: Path, config: Config, architecture: Architecture, *, warn: bool) -> None:
    """Refuse a run whose next checkpoint has no room; warn of one that will keep more of them than there is room for."""
    one, free = bytes_of_one(config, architecture), checkpoint_files.free_bytes(root)
    if free < one:
        raise ConfigError(f"run.dir: a checkpoint of this run takes about {readable(one)}, but {root} has {readable(free)} "
                          "free; make room or choose another run.dir")
    stay = config.checkpoint.keep_last + (config.validation.patience > 0)  # the best one stays too
    more = stay + 1 - min(len(layout.saved_steps(root)), stay)  # the one that is being written stands beside them
    if warn and free < more * one:
        log.get().warning("run.dir: %s has %s free, but %d more checkpoints of about %s each are to be there (%d that stay and "
                          "the one being written, see checkpoint.keep_last): the run ends where there is no room", root,
                          readable(free), more, readable(one), stay)

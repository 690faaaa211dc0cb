"""The whole configuration of a training run: frozen, TOML in, dotted overrides, every field with its unit.

Imports no torch: a config is checked on a login node. Nothing assigns to it after it is read; numbers that follow
from it (data-parallel size, micro-batches, ...) are in `plan.Plan`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pydantic
import tomli_w

from megatron_ft.config_sections import (
    Checkpoint,
    Data,
    Load,
    Log,
    Lora,
    Loss,
    Memory,
    Model,
    Optim,
    Parallel,
    Run,
    Runtime,
    Section,
    Validation,
)
from megatron_ft.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Config(Section):
    """One run. `read` makes it from a TOML file and overrides."""

    run: Run = Run()
    runtime: Runtime = Runtime()
    load: Load = Load()
    model: Model = Model()
    parallel: Parallel = Parallel()
    memory: Memory = Memory()
    lora: Lora = Lora()
    data: Data = Data()
    optim: Optim = Optim()
    loss: Loss = Loss()
    checkpoint: Checkpoint = Checkpoint()
    validation: Validation = Validation()
    log: Log = Log()

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Config:
        if not self.run.dir:
            raise ValueError("run.dir: no folder named; set run.dir=FOLDER for checkpoints and metrics")
        if not self.load.base:
            raise ValueError("load.from: no base model named; set load.from to a Hugging Face folder or a checkpoint")
        if self.data.weights_files and (self.data.train or self.data.valid):
            raise ValueError(f"data.weights_files: {', '.join(self.data.weights_files)} and "
                             f"{'data.train' if self.data.train else 'data.valid'} are both set, and each says what is read; "
                             "set one of them")
        if not self.data.train and not self.data.weights_files:
            raise ValueError("data.train: no dataset named; set data.train=PREFIX (made by preprocess/tokenize_sft.py)")
        if self.run.steps == 0 and self.run.epochs == 0:
            raise ValueError("run.steps and run.epochs are both 0: say how long to train, e.g. run.epochs=3")
        if self.run.steps and self.run.epochs:
            raise ValueError(f"run.steps={self.run.steps} and run.epochs={self.run.epochs} contradict each other; set one")
        if self.optim.min_lr > self.optim.lr:
            raise ValueError(f"optim.min_lr: {self.optim.min_lr} is above optim.lr={self.optim.lr}")
        if self.parallel.sequence_parallel and self.parallel.tp == 1:
            raise ValueError("parallel.sequence_parallel: true needs parallel.tp > 1, which is 1")
        if self.parallel.virtual_stages > 1 and self.parallel.pp == 1:
            raise ValueError(f"parallel.virtual_stages: {self.parallel.virtual_stages} needs parallel.pp > 1, which is 1")
        if self.optim.optimizer == "sgd" and self.parallel.distributed_optimizer:
            raise ValueError("parallel.distributed_optimizer: true, but megatron-core cuts up Adam's state only, and "
                             "optim.optimizer is 'sgd'; set parallel.distributed_optimizer=false")
        if self.lora.rank and (not self.lora.linears or len(set(self.lora.linears)) < len(self.lora.linears)):
            raise ValueError(f"lora.linears: {list(self.lora.linears)} with lora.rank={self.lora.rank}; name each linear that "
                             "gets an adapter once, of qkv, proj, fc1, fc2")
        if self.lora.rank and self.runtime.kernels == "transformer_engine":
            raise ValueError("runtime.kernels: 'transformer_engine', but adapters (lora.rank="
                             f"{self.lora.rank}) go on the local layers; use 'local' or 'auto'")
        if self.loss.on == "all" and self.loss.weighting == "target":
            raise ValueError("loss.weighting: 'target' weighs answers, but loss.on is 'all', which has none; use 'token'")
        return self

    def to_toml(self) -> str:
        """The complete configuration, defaults included, as `read` reads it back."""
        return tomli_w.dumps(self.model_dump(by_alias=True, exclude_none=True, mode="json"))


def read(path: str | Path, overrides: list[str] | None = None) -> Config:
    """The configuration in a TOML file, with `section.field=value` overrides on top.

    Raises ConfigError with the file, the field, the value and what is allowed.
    """
    tree = _tree(Path(path))
    for override in overrides or []:
        _apply(tree, override)
    return parse(tree, where=str(path))


def named_in(path: str | Path) -> set[str]:
    """The fields that a TOML file sets, as "section.field"."""
    return {f"{section}.{field}" for section, fields_of in _tree(Path(path)).items() if isinstance(fields_of, dict)
            for field in fields_of}


def _tree(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; examples are in examples/configs/") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def parse(tree: dict[str, Any], *, where: str = "config") -> Config:
    """The configuration in a nested dict; ConfigError names every field that is wrong."""
    try:
        return Config.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_explain(problem) for problem in error.errors())) from None


def fields() -> dict[str, tuple[Any, str]]:
    """Every field as {"section.field": (default, help line)}: the source of --help and of docs/config.md."""
    found = {}
    for section, info in Config.model_fields.items():
        for name, field in info.annotation.model_fields.items():
            found[f"{section}.{field.alias or name}"] = (field.default, field.description or "")
    return found


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one `section.field=value` in the tree; the value is TOML, or else a plain string.

    >>> tree = {}
    >>> _apply(tree, "optim.lr=2e-5"), _apply(tree, "run.dir=runs/a"), _apply(tree, "data.valid=['0.9:1 d']")
    (None, None, None)
    >>> tree
    {'optim': {'lr': 2e-05}, 'run': {'dir': 'runs/a'}, 'data': {'valid': ['0.9:1 d']}}
    """
    key, separator, text = override.partition("=")
    section, dot, field = key.strip().partition(".")
    known = fields()
    if not separator or not dot or key.strip() not in known:
        close = [name for name in known if name.endswith("." + (field or section))] or sorted(known)
        raise ConfigError(f"override {override!r}: not of the form section.field=value with a known field; known: "
                          f"{', '.join(close)}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if isinstance(known[key.strip()][0], tuple) and isinstance(value, str):
        value = [value]
    if isinstance(known[key.strip()][0], str) and not isinstance(value, str):
        value = text
    tree.setdefault(section, {})[field] = value


def _explain(problem: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such field (see docs/config.md)"
    if problem["type"] == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    return f"{where}: {problem['msg']}, got {problem['input']!r}"


def markdown() -> str:
    """Every field as a Markdown table: docs/config.md holds it."""
    rows = [f"| `{name}` | `{_shown(default)}` | {text} |" for name, (default, text) in fields().items()]
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *rows])


def _shown(default: Any) -> str:
    return {"None": "unset", "()": "[]", "''": '""'}.get(repr(default), str(default))


if __name__ == "__main__":
    sys.stdout.write("# Every field of a training config\n\n"
                     "Generated by `python -m megatron_ft.config > docs/config.md`; the same lines are in "
                     "`python -m megatron_ft.train --help`.\nSet them in a TOML file (`[section]`, `field = value`) or on the "
                     f"command line (`section.field=value`).\n\n{markdown()}\n")

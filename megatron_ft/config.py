"""The whole configuration of a training run: frozen, TOML in, dotted overrides, every field with its unit.

Imports no torch: a config is checked on a login node. Nothing assigns to it after it is read; numbers that follow
from it (data-parallel size, micro-batches, ...) are in `plan.Plan`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pydantic
import tomli_w

from megatron_ft.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Section(pydantic.BaseModel):
    """A table of the TOML: frozen, no unknown keys, finite numbers; the line under each field is its help."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False,
                                       protected_namespaces=(), populate_by_name=True)


class Run(Section):
    dir: str = ""
    """Folder of this run: checkpoints/, metrics.jsonl, tensorboard/, config.toml. Required."""
    steps: int = pydantic.Field(0, ge=0)
    """Optimizer steps of the whole run; 0: as many as `run.epochs` takes."""
    epochs: float = pydantic.Field(0.0, ge=0)
    """Passes over the training documents; used when `run.steps` is 0."""
    seed: int = pydantic.Field(1234, ge=0, lt=2**31)
    """Seed of the row order, of dropout and of new LoRA adapters, for all ranks."""
    max_minutes: float = pydantic.Field(0.0, ge=0)
    """Wall time after which the run writes a checkpoint and ends with the exit code for "requeue me" (75); 0: no limit."""
    max_skipped_steps: int = pydantic.Field(3, ge=1)
    """Steps in a row whose loss or gradient is not finite (each is skipped and counted) before the run stops."""


class Runtime(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live: auto takes CUDA where a GPU is visible, else the CPU over gloo."""
    kernels: Literal["auto", "local", "transformer_engine"] = "auto"
    """Layers on CUDA: auto takes transformer-engine's where it imports, else the local ones; the others insist."""
    threads: int = pydantic.Field(0, ge=0)
    """CPU threads per process for torch; 0: cores of the machine / processes on it."""
    timeout_minutes: float = pydantic.Field(10.0, gt=0)
    """How long a collective waits for a rank before the job is ended."""
    dead_rank_seconds: float = pydantic.Field(30.0, ge=0)
    """A rank that has not been heard of for this long ends the job on all others; 0: never."""


class Load(Section):
    model_config = pydantic.ConfigDict(**{**Section.model_config, "title": "load"})
    base: str = pydantic.Field("", alias="from")
    """The base model: a Hugging Face folder, or a checkpoint of convert/hf_to_megatron.py or of another run. Required."""


class Model(Section):
    hidden_dropout: float | None = pydantic.Field(None, ge=0, lt=1)
    """Dropout after embedding, attention and MLP; unset: what the base model's config says."""
    attention_dropout: float | None = pydantic.Field(None, ge=0, lt=1)
    """Dropout of attention probabilities; unset: what the base model's config says."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Format of weights and activations; the optimizer's weights and the gradients are fp32 always. fp16 scales the loss."""
    vocabulary_multiple: int = pydantic.Field(128, ge=1)
    """The embedding is padded to a multiple of this times parallel.tp; padding never gets probability."""


class Parallel(Section):
    tp: int = pydantic.Field(1, ge=1)
    """Tensor-parallel ranks: each layer is cut over this many GPUs (keep it inside a node)."""
    pp: int = pydantic.Field(1, ge=1)
    """Pipeline stages: the layers are dealt out over this many groups of GPUs."""
    virtual_stages: int = pydantic.Field(1, ge=1)
    """Pieces of the model per pipeline stage, taken in turn (interleaved schedule): a smaller bubble, more messages."""
    stage_layers: tuple[int, ...] = ()
    """Layers of each piece in the model's order, pp x virtual_stages numbers; empty: as even as possible, fewer at the ends."""
    sequence_parallel: bool = False
    """Norms and dropout are cut along the row over the tp ranks too (less activation memory; needs tp > 1)."""
    distributed_optimizer: bool = True
    """Optimizer state is cut over the data-parallel ranks (ZeRO-1)."""
    overlap_grad_reduce: bool = True
    """Gradients are summed over the data-parallel ranks while the backward pass still runs."""
    overlap_param_gather: bool = True
    """Updated weights are gathered while the next forward pass runs (with the distributed optimizer)."""


class Memory(Section):
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations that the backward pass computes anew: none, those of memory.modules, or whole layers."""
    modules: tuple[Literal["core_attn", "layernorm", "mlp"], ...] = ("core_attn",)
    """What memory.recompute="selective" computes anew: attention (useless with flash kernels), norms, MLPs."""
    layers: int = pydantic.Field(1, ge=1)
    """With memory.recompute="full": layers between two stored activations."""


class Lora(Section):
    rank: int = pydantic.Field(0, ge=0)
    """Rank of the adapters; 0: no LoRA, all weights are trained. With LoRA the base weights are frozen."""
    alpha: float = pydantic.Field(32.0, gt=0)
    """Adapters' output is scaled by alpha / rank."""
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    """Dropout of the adapters' input."""
    linears: tuple[Literal["qkv", "proj", "fc1", "fc2"], ...] = ("qkv", "proj", "fc1", "fc2")
    """Linears that get an adapter: query-key-value, attention output, and the MLP's first and second."""


class Data(Section):
    train: tuple[str, ...] = ()
    """Training data, each "[WEIGHT] [START:END] PREFIX" ("0:0.95 data/mix"); WEIGHT: share of the documents read. Required."""
    valid: tuple[str, ...] = ()
    """Held-out data, "[TAG=] [START:END] PREFIX"; ranges that overlap with data.train are refused. Empty: no validation."""
    weights_files: tuple[str, ...] = ()
    """OctoPack's weights files, in place of data.train and data.valid: "train: W START:END PREFIX, ..." and "valid: ..."."""
    end_of_text: int | None = pydantic.Field(None, ge=0)
    """Id that closes an answer, for dataset pairs, which do not say it; unset: as the tokenizer in load.from's hf/ has it."""
    row_tokens: int = pydantic.Field(2048, ge=2)
    """Length of a packed row in tokens; whole documents share a row and never see each other."""
    rows_per_step: int = pydantic.Field(128, ge=1)
    """Packed rows per optimizer step, over all data-parallel ranks and micro-batches."""
    rows_per_micro_batch: int = pydantic.Field(1, ge=1)
    """Packed rows that one rank takes through the model at once."""
    long_documents: Literal["stop", "drop", "truncate"] = "stop"
    """A document longer than a row: stop with its number, drop it, or cut its end; dropped and cut ones are counted."""
    cache_dir: str = ""
    """Folder for cached packings; empty: .megatron_ft_cache beside the first dataset. Not writable: nothing is cached."""


class Optim(Section):
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw: decay apart from the gradient; adam: decay as part of it (L2); sgd: with optim.momentum."""
    lr: float = pydantic.Field(5e-5, gt=0)
    """Peak learning rate, reached after the warm-up."""
    min_lr: float = pydantic.Field(5e-6, ge=0)
    """Learning rate at the end of the decay."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape of the decay from lr to min_lr after the warm-up; wsd: constant, then linear in the last optim.decay_fraction."""
    decay_fraction: float = pydantic.Field(0.1, gt=0, le=1)
    """Share of the run's steps in which schedule "wsd" decays."""
    warmup_steps: int | None = pydantic.Field(None, ge=0)
    """Steps of linear warm-up; unset: optim.warmup_fraction of the run."""
    warmup_fraction: float = pydantic.Field(0.01, ge=0, lt=1)
    """Share of the run's steps for the warm-up."""
    weight_decay: float = pydantic.Field(0.05, ge=0)
    """Decay of the weights, except those of optim.no_decay."""
    no_decay: tuple[Literal["biases", "norms", "embeddings"], ...] = ("biases", "norms")
    """Groups of weights that do not decay; embeddings: words (with a tied head: the head too) and positions."""
    beta1: float = pydantic.Field(0.9, ge=0, lt=1)
    """AdamW's first-moment decay."""
    beta2: float = pydantic.Field(0.95, ge=0, lt=1)
    """AdamW's second-moment decay."""
    epsilon: float = pydantic.Field(1e-8, gt=0)
    """AdamW's denominator offset."""
    clip_norm: float = pydantic.Field(1.0, ge=0)
    """Global gradient norm is cut to this; 0: no clipping."""
    momentum: float = pydantic.Field(0.9, ge=0, lt=1)
    """Momentum of optimizer "sgd"."""
    initial_loss_scale: float = pydantic.Field(4096.0, gt=0)
    """fp16: the loss is multiplied by this at first; halved on overflow, doubled after loss_scale_window steps."""
    loss_scale_window: int = pydantic.Field(1000, ge=1)
    """fp16: steps without overflow before the loss scale is doubled."""


class Loss(Section):
    weighting: Literal["token", "target"] = "token"
    """token: every supervised token weighs 1; target: every answer weighs 1, its tokens share it."""
    on: Literal["answers", "all"] = "answers"
    """What is supervised: answers with their end tokens, or every token of a document."""


class Checkpoint(Section):
    every_steps: int = pydantic.Field(250, ge=0)
    """Steps between checkpoints; the last step always gets one; 0: only the last."""
    keep_last: int = pydantic.Field(2, ge=1)
    """Newest checkpoints that stay; older ones are removed once a newer one is complete."""
    keep_every: int = pydantic.Field(0, ge=0)
    """Checkpoints of steps that are multiples of this stay for good; 0: none."""
    asynchronous: bool = True
    """Training goes on while a checkpoint is written; the last one of a process is waited for."""


class Validation(Section):
    every_steps: int = pydantic.Field(250, ge=0)
    """Steps between validations; also before the first step and after the last; 0: only those two."""
    max_steps: int = pydantic.Field(0, ge=0)
    """Validate on at most this many steps' worth of rows; 0: all of data.valid."""
    patience: int = pydantic.Field(0, ge=0)
    """The run ends when the validation loss has not improved for this many validations in a row; 0: never."""


class Log(Section):
    every_steps: int = pydantic.Field(10, ge=1)
    """Steps between log lines (terminal, metrics.jsonl, TensorBoard)."""
    tensorboard: bool = True
    """Write TensorBoard event files under run.dir/tensorboard."""
    wandb_project: str = ""
    """Project for Weights & Biases (package wandb); empty: not used."""
    wandb_mode: Literal["offline", "online"] = "offline"
    """offline writes under run.dir/wandb, for `wandb sync` from a login node."""
    peak_tflops: float = pydantic.Field(0.0, ge=0)
    """Dense matrix peak of one GPU in TFLOP/s, for MFU; 0: as the GPU's name says, and no MFU where it is unknown."""
    spike_factor: float = pydantic.Field(2.0, ge=0)
    """A step whose loss is above this times the mean of the 50 before has its documents written to spikes.jsonl; 0: none."""


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

"""The tables of a config file, one class each: every field with its default and a line that says its unit and scope.

The line under a field is its help: in `python -m megatron_ft.train --help` and in docs/config.md.
"""

from __future__ import annotations

from typing import Literal

import pydantic


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
    """A machine that does not answer for this long counts as dead, which ends the job; 0: no death of a rank is watched for."""


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
    """Validate on at most this many steps' worth of rows of each tag; 0: all of data.valid."""
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
    """A step whose loss is above this times the mean of the (10 to) 50 before has its documents in spikes.jsonl; 0: none."""

"""Compares a checkpoint's logits, computed by megatron-core at a given TP x PP, with transformers' on the same tokens.

T tokens of a row (documents laid end to end), V vocabulary
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ft import families, log
from megatron_ft.conversion.megatron_to_hf import require_same_architecture
from megatron_ft.errors import ConfigError
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_layout, device, hf_files, lora_layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from megatron_ft.runtime.groups import Place

SEED = 20240229
_TIMEOUT_MINUTES = 60.0  # the reference of a large model takes long, and the other ranks wait for it


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far the logits of two models are from each other."""

    tokens: int
    documents: int
    largest_difference: float
    mean_difference: float
    largest_logit: float
    """Of the reference: what the differences are to be seen against."""
    top1_agreement: float
    """Share of positions where both models would pick the same next token."""
    tolerance: float

    @property
    def equal(self) -> bool:
        """The verdict; NaN anywhere is a no."""
        return self.largest_difference <= self.tolerance

    def show(self) -> None:
        """Print the figures and the verdict to stdout."""
        log.table("logits: megatron-core against transformers, float32", ["figure", "value"], [
            ["tokens, in documents", f"{self.tokens}, {self.documents}"],
            ["largest difference", f"{self.largest_difference:.3e}"],
            ["mean difference", f"{self.mean_difference:.3e}"],
            ["largest logit", f"{self.largest_logit:.3g}"],
            ["same top token", f"{self.top1_agreement:.2%}"],
            ["verdict", f"{'EQUAL' if self.equal else 'DIFFERENT'} (tolerance {self.tolerance:g})"]])


def verify(hf: str | Path, checkpoint: str | Path, *, tolerance: float, tokens: int, tp: int = 1, pp: int = 1,
           device_setting: str = "cpu") -> bool:
    """Whether both models give the same logits on random documents; prints the figures on the rank that has them.

    Every rank of a torchrun or srun with tp * pp processes calls this; one process needs no launcher.
    """
    from megatron_ft.config import Parallel, Runtime

    process = device.process_of(dict(os.environ))
    if process.size != tp * pp:
        raise ConfigError(f"--tp {tp} x --pp {pp} takes {tp * pp} processes, but {process.size} run; start it with "
                          f"`torchrun --nproc-per-node {tp * pp} convert/verify.py ...`")
    log.setup(rank=process.rank)
    warnings.filterwarnings("ignore", module=r"megatron\.core|torch")
    folder, architecture = checked(hf, checkpoint)
    documents = document_lengths(tokens, longest=architecture.positions)
    chosen = device.prepare(Runtime(device=device_setting), process)

    from megatron_ft.runtime import groups
    from megatron_ft.training.plan import check_layout

    parallel = Parallel(tp=tp, pp=pp)
    check_layout(architecture, parallel, processes=process.size, row_tokens=tokens)
    with groups.start(process, chosen, parallel, timeout_minutes=_TIMEOUT_MINUTES) as place:
        logits_TV = megatron_logits(folder, architecture, random_documents(architecture, documents), parallel=parallel,
                                    place=place)
        comparison = None
        if place.last_stage and place.tp_rank == 0:
            comparison = compare(reference_logits(hf, architecture, documents), logits_TV, documents, tolerance)
            comparison.show()
        return _agreed(comparison)


def checked(hf: str | Path, checkpoint: str | Path) -> tuple[Path, Architecture]:
    """The iteration folder and the one architecture of both; refuses different models and incomplete weights."""
    folder = checkpoint_layout.find(checkpoint)
    architecture = checkpoint_layout.Manifest.read(folder).architecture
    require_same_architecture(families.architecture_of_folder(hf), architecture, where=str(hf), other=str(folder))
    # transformers fills what a folder lacks with random numbers and drops what it does not know
    found = hf_files.open_weights(hf).shapes
    rules.check_hf_tensors(families.get(architecture.family).RULES, architecture, found, where=str(hf))
    return folder, architecture


def document_lengths(tokens: int, *, longest: int) -> list[int]:
    """Lengths of documents that fill a row of `tokens`: 1, 2, 4, ..., none over `longest`.

    >>> document_lengths(100, longest=32)
    [1, 2, 4, 8, 16, 32, 32, 5]
    """
    if tokens < 1:
        raise ConfigError(f"--tokens: {tokens}, expected at least 1")
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(min(2 ** len(lengths), longest, tokens - sum(lengths)))
    return lengths


def random_documents(architecture: Architecture, lengths: list[int]) -> list[Tensor]:
    """int64 [length] each: the same random tokens on every rank and in every run."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    return [torch.randint(0, architecture.vocabulary, (length,), generator=generator) for length in lengths]


def reference_logits(hf: str | Path, architecture: Architecture, lengths: list[int]) -> Tensor:
    """float32 [T, V] by transformers on the CPU, each document alone."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # it would run into the table of results
    model = transformers.AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return torch.cat([model(document[None]).logits[0] for document in random_documents(architecture, lengths)])


def megatron_logits(folder: Path, architecture: Architecture, documents: list[Tensor], *, parallel: object,
                    place: Place) -> Tensor | None:
    """float32 [T, V] by megatron-core, all documents (int64 [length]) in one packed row; None but on the last stage."""
    import torch
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from megatron_ft.config import Model
    from megatron_ft.training import model

    [stage] = model.build(architecture, parallel=parallel, model=Model(precision="fp32"), device=place.device)
    _load(stage, folder)
    stage.eval()
    home = next(stage.parameters()).device
    lengths = [len(document) for document in documents]
    ids = torch.cat(documents)[None].to(home)
    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(home)
    borders = torch.tensor([0, *lengths]).cumsum(0).to(home, torch.int32)

    def forward(_: object, module: torch.nn.Module) -> tuple[Tensor, object]:
        output = module(input_ids=ids, position_ids=positions, attention_mask=None,
                        packed_seq_params=model.packed(borders, max(lengths)))
        return output, lambda logits, non_loss_data: model.full_logits(logits, architecture.vocabulary)

    with torch.no_grad():
        collected = get_forward_backward_func()(
            forward_step_func=forward, data_iterator=None, model=[stage], num_microbatches=1, seq_length=ids.shape[1],
            micro_batch_size=1, forward_only=True, collect_non_loss_data=True)
    return collected[0][0].float().cpu() if collected else None


def _load(stage: torch.nn.Module, folder: Path) -> None:
    """The weights of a checkpoint; of a LoRA checkpoint its base's, with the adapters on top."""
    from megatron_ft.training import checkpoint, hf_weights, lora

    manifest = checkpoint_layout.Manifest.read(folder)
    settings = lora_layout.of(manifest)
    if settings is not None:
        base = Path(manifest.source["base"])
        lora_layout.require_base(manifest, folder, base, option="base model")
        if (base / checkpoint_layout.MANIFEST_FILE).is_file():
            checkpoint.load_model([stage], base)
        else:
            hf_weights.load([stage], base, manifest.architecture)
        lora.apply(stage, settings, seed=0)
    checkpoint.load_model([stage], folder)


def compare(reference_TV: Tensor, logits_TV: Tensor, lengths: list[int], tolerance: float) -> Comparison:
    """The figures of two sets of logits for the same tokens."""
    difference = (reference_TV - logits_TV).abs()
    same = reference_TV.argmax(-1) == logits_TV.argmax(-1)
    return Comparison(tokens=sum(lengths), documents=len(lengths), largest_difference=difference.max().item(),
                      mean_difference=difference.mean().item(), largest_logit=reference_TV.abs().max().item(),
                      top1_agreement=same.float().mean().item(), tolerance=tolerance)


def _agreed(comparison: Comparison | None) -> bool:
    """The verdict of the rank that compared, on every rank."""
    import torch

    device_now = torch.cuda.current_device() if torch.distributed.get_backend() == "nccl" else "cpu"
    failed = torch.tensor([int(comparison is not None and not comparison.equal)], device=device_now)
    torch.distributed.all_reduce(failed)
    return not failed.item()

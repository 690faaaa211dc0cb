"""Logits of random documents by megatron-core, at a TP x PP, and by transformers in float32 on the CPU: how far apart.

T tokens of a row (documents laid end to end), V vocabulary
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from megatron_ft import families
from megatron_ft.conversion.verify_files import Pair, manifest_of
from megatron_ft.errors import CheckpointError, ConfigError
from megatron_ft.families import rules
from megatron_ft.families.architecture import Architecture
from megatron_ft.runtime import checkpoint_layout, hf_files, lora_layout
from megatron_ft.runtime.checkpoint_layout import Manifest

if TYPE_CHECKING:
    from megatron_ft.runtime.groups import Place

SEED = 20240229
_PIECE_POSITIONS = 32
"""Compared at a time: in float64, a few hundred megabytes for the largest vocabularies."""
_LISTS_OF_LAYERS = ("layer_types",)
"""Of a transformers config: a value for each layer."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far the logits of two models are from each other."""

    tokens: int
    documents: int
    layers: int
    """Of the model that computed them: all, or the first ones of it."""
    largest_difference: float
    mean_difference: float
    largest_logit: float
    """Of the reference: what the differences are to be seen against."""
    top1_agreement: float
    """Share of positions where both models would pick the same next token."""
    kl_mean: float
    """KL divergence of the checkpoint's next-token distribution from the reference's, in nats: over positions the mean..."""
    kl_largest: float
    """...and the largest."""
    tolerance: float

    @property
    def equal(self) -> bool:
        """The verdict; NaN anywhere is a no."""
        return self.largest_difference <= self.tolerance


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
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randint(0, architecture.vocabulary, (length,), generator=generator) for length in lengths]


def reference_logits(hf: str | Path, architecture: Architecture, documents: Iterable[Tensor]) -> Iterator[Tensor]:
    """float32 [T, V] by transformers on the CPU of each document (int64 [T]), alone.

    Args:
        architecture: of the folder, or with fewer layers: then of its first ones, and no other layer's weights are read.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # it would run into the table of results
    settings = {"dtype": torch.float32, "attn_implementation": "eager"}
    if architecture == families.architecture_of_folder(hf):
        model = transformers.AutoModelForCausalLM.from_pretrained(hf, **settings)
    else:
        model = _first_layers(Path(hf), architecture, settings)
    model.eval()
    with torch.no_grad():
        for document in documents:
            yield model(document[None]).logits[0]


def _first_layers(hf: Path, architecture: Architecture, settings: dict[str, object]) -> torch.nn.Module:
    import transformers

    config = transformers.AutoConfig.from_pretrained(hf)
    for name in _LISTS_OF_LAYERS:
        if getattr(config, name, None) is not None:
            setattr(config, name, getattr(config, name)[:architecture.layers])
    config.num_hidden_layers = architecture.layers
    with torch.device("meta"):
        kind = type(transformers.AutoModelForCausalLM.from_config(config))
    files, table = hf_files.open_weights(hf), families.get(architecture.family).RULES
    tensors = {name: files.read(name).float() for weight in rules.weights(table, architecture) for name, _ in weight.hf}
    model, outcome = kind.from_pretrained(None, config=config, state_dict=tensors, output_loading_info=True, **settings)
    missing = set(outcome["missing_keys"]) - {"lm_head.weight"} if architecture.tied_head else set(outcome["missing_keys"])
    if missing or outcome["unexpected_keys"]:
        raise CheckpointError(f"{hf}: transformers does not find {sorted(missing)} or does not know "
                              f"{sorted(outcome['unexpected_keys'])} in the first {architecture.layers} layers; verify without "
                              "--quick")
    return model


def megatron_logits(load: Callable[[torch.nn.Module], None], architecture: Architecture, documents: list[Tensor], *,
                    parallel: object, place: Place) -> Tensor | None:
    """float32 [T, V] by megatron-core, all documents (int64 [length]) in one packed row; None but on the last stage.

    Args:
        load: sets the weights of this rank's stage.
    """
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from megatron_ft.config import Model
    from megatron_ft.training import model

    [stage] = model.build(architecture, parallel=parallel, model=Model(precision="fp32"), device=place.device)
    load(stage)
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


def load_checkpoint(stage: torch.nn.Module, folder: Path) -> None:
    """The weights of a checkpoint of ours, as training loads them; of LoRA its base's, with the adapters on top."""
    from megatron_ft.training import checkpoint, hf_weights, lora

    manifest = Manifest.read(folder)
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


def loader(pair: Pair, architecture: Architecture) -> Callable[[torch.nn.Module], None]:
    """What sets a stage's weights: a whole checkpoint of ours as training loads it, anything else piece by piece."""
    if manifest_of(pair.opened.folder) is not None and architecture == pair.architecture:
        return lambda stage: load_checkpoint(stage, pair.opened.folder)

    def load(stage: torch.nn.Module) -> None:
        from megatron_ft.training import hf_weights

        hf_weights.fill([stage], architecture, lambda weight: pair.opened.source.reading(weight.megatron).rows)

    return load


def compare(reference: Iterable[Tensor], logits_TV: Tensor, lengths: list[int], *, layers: int, tolerance: float) -> Comparison:
    """The figures of two sets of logits for the same tokens.

    Args:
        reference: [length, V] of each document; one at a time is held.
    """
    tallies = []
    start = 0
    for document_TV in reference:
        for piece_TV in document_TV.split(_PIECE_POSITIONS):
            tallies.append(_tally(piece_TV.double(), logits_TV[start:start + len(piece_TV)].double()))
            start += len(piece_TV)
    assert start == len(logits_TV) == sum(lengths)
    differences, logits, sums, same, kl_sums, kl_largest = torch.tensor(tallies, dtype=torch.float64).unbind(1)
    return Comparison(
        tokens=start, documents=len(lengths), layers=layers, largest_difference=differences.max().item(),
        mean_difference=sums.sum().item() / logits_TV.numel(), largest_logit=logits.max().item(),
        top1_agreement=same.sum().item() / start, kl_mean=kl_sums.sum().item() / start,
        kl_largest=kl_largest.max().item(), tolerance=tolerance)


def _tally(expected_TV: Tensor, found_TV: Tensor) -> tuple[float, ...]:
    """Of some positions, in float64: largest difference and logit, then sums; torch's maximum passes NaN on."""
    same = (expected_TV.argmax(-1) == found_TV.argmax(-1)).sum()
    difference_TV = (expected_TV - found_TV).abs()
    kl_T = kl_divergence(expected_TV, found_TV)
    found = (difference_TV.max(), expected_TV.abs().max(), difference_TV.sum(), same, kl_T.sum(), kl_T.max())
    return tuple(each.item() for each in found)


def kl_divergence(reference_TV: Tensor, logits_TV: Tensor) -> Tensor:
    """[T] sum over V of p (log p - log q), p of the reference, in nats; never below 0, as rounding may make it.

    >>> round(kl_divergence(torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()).item(), 9)
    0.120114507
    """
    log_p, log_q = reference_TV.log_softmax(-1), logits_TV.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0)

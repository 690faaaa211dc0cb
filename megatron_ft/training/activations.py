"""Activation bytes: what a layer keeps for its backward pass, how many micro-batches are in flight, and what comes on top.

After Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198), section 4,
adapted to what megatron-core's layers keep with the local kernels (training/kernels.py): no dropout masks where dropout is 0,
flash attention (its output and one fp32 number per head and token, no T x T terms), grouped queries, gated MLPs.

    T tokens of a micro-batch, D width, H heads, K key/value heads, E head width, F width of the MLP, V padded vocabulary,
    b bytes of a number, t tensor-parallel ranks, r = t under sequence parallelism, else 1

What one layer keeps per token:

    norms            2 x (bD input + bD output) / r
    attention        b (H + 2K) E / t the projection, b H E / t the output, 4 H / t flash's logsumexp;
                     with more tp ranks than key/value heads the projection is gathered first: b (H/K + 2) E, not cut
                     rotary positions: b (H + K) E / t rotated copies, 4 b E sines and cosines
    MLP              bF / t before and bF / t after the activation function;
                     gated: 2 bF / t both halves, 3 bF / t: act(gate), the other half, their product
    dropout > 0      2 x D / r masks of one byte

Transformer-engine's layers keep about as much, somewhat less in gated MLPs. A test compares with what torch keeps and with the
peak that its profiler sees, on the CPU.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from megatron_ft.config import Config, Memory, Model
from megatron_ft.families.architecture import Architecture
from megatron_ft.training import flops
from megatron_ft.training.plan import padded_vocabulary
from megatron_ft.training.state_bytes import BYTES, CUT_BY_OUTPUTS, FLOAT, Piece

INTEGER = 8


@dataclasses.dataclass(frozen=True)
class Activations:
    """Bytes for one micro-batch on one GPU."""

    layer: int
    """What one layer keeps without recomputation."""
    kept_layer: float
    """What one layer keeps under memory.recompute (of "full" with several layers between: their mean)."""
    embedding: int
    """What the embedding keeps, on the first stage."""
    head: int
    """What the final norm keeps for the output layer, and the labels', on the last stage."""
    layer_temporary: int
    """On top in a layer's backward pass: gradients of activations, the largest weight gradient, what is recomputed."""
    head_temporary: int
    """On top in the loss: the logits, and their fp32 softmax."""

    def of_piece(self, piece: Piece) -> int:
        """Kept by one micro-batch in one piece of the model."""
        return round(piece.layers * self.kept_layer) + piece.first * self.embedding + piece.last * self.head

    def temporary(self, pieces: Sequence[Piece]) -> int:
        """The largest on top of what is kept, on a GPU with these pieces."""
        return max(self.layer_temporary, self.head_temporary if any(piece.last for piece in pieces) else 0)


def activations(config: Config, architecture: Architecture) -> Activations:
    """Of one micro-batch, with rows, layout, precision and recomputation as in the config."""
    a, model, tp = architecture, config.model, config.parallel.tp
    tokens, b = config.data.row_tokens * config.data.rows_per_micro_batch, BYTES[config.model.precision]
    cut = tp if config.parallel.sequence_parallel else 1
    attention, mlp = _attention(a, model, tp), _mlp(a, b, tp)
    masks = a.hidden / cut if _or(model.hidden_dropout, a.hidden_dropout) else 0.0
    layer = 4 * b * a.hidden / cut + attention + mlp + 2 * masks + _adapters(config, a)
    kept = _kept(config.memory, layer=layer, attention=_recomputed_attention(a, model, tp), mlp=mlp,
                 norms=2 * b * a.hidden / cut, block_input=b * a.hidden / cut)
    return Activations(
        layer=round(tokens * layer), kept_layer=tokens * kept,
        embedding=round(tokens * (2 * INTEGER + masks)), head=round(tokens * (2 * b * a.hidden / cut + INTEGER + 1)),
        layer_temporary=_layer_temporary(config, a, tokens=tokens, recomputed=tokens * (layer - kept), layer=tokens * layer),
        head_temporary=_head_temporary(config, a, tokens=tokens))


def _attention(a: Architecture, model: Model, tp: int) -> float:
    """Per token: the projection, rotated copies, the output, the logsumexp."""
    b, groups = BYTES[model.precision], a.groups
    if groups < tp:
        projection = (a.heads / groups + 2) * a.head_width * groups  # gathered whole; a group's part of it is only a view
    else:
        projection = (a.heads + 2 * groups) * a.head_width / tp
    kept = b * projection + b * a.query_width / tp + FLOAT * a.heads / tp
    if a.position_embedding == "rope":
        kept += b * (a.query_width / tp + max(groups / tp, 1) * a.head_width) + 4 * b * a.head_width
    if not flash(a, model):
        # one attention per document: its output is copied into the row, and keys and values are repeated for every head
        repeated = 2 * a.query_width / tp if groups < a.heads else 0
        kept += b * (a.query_width / tp + repeated)
    return kept


def _adapters(config: Config, a: Architecture) -> float:
    """Per token: LoRA's small width of each linear, and with its dropout the dropped inputs with their masks."""
    lora, tp = config.lora, config.parallel.tp
    if not lora.rank:
        return 0.0
    b, cut = BYTES[config.model.precision], tp if config.parallel.sequence_parallel else 1
    kept = 0.0
    for name in set(lora.linears):
        inputs = flops.linears(a)[name][0] / (cut if name in CUT_BY_OUTPUTS else tp)
        kept += b * lora.rank + ((b + 1) * inputs if lora.dropout else 0)
    return kept


def _recomputed_attention(a: Architecture, model: Model, tp: int) -> float:
    """What recomputing "core_attn" saves per token: the output stays, the next linear needs it."""
    if flash(a, model):
        return FLOAT * a.heads / tp
    repeated = 2 * a.query_width / tp if a.groups < a.heads else 0
    return FLOAT * a.heads / tp + BYTES[model.precision] * (a.query_width / tp + repeated)


def flash(a: Architecture, model: Model) -> bool:
    """Whether a run on CUDA takes the variable-length flash kernel of training/attention.py: half precision, no dropout."""
    return model.precision != "fp32" and _or(model.attention_dropout, a.attention_dropout) == 0


def _mlp(a: Architecture, b: int, tp: int) -> float:
    return b * a.ffn * (5 if a.gated else 2) / tp


def _kept(memory: Memory, *, layer: float, attention: float, mlp: float, norms: float, block_input: float) -> float:
    if memory.recompute == "full":
        return block_input / memory.layers
    if memory.recompute == "none":
        return layer
    saved = {"core_attn": attention, "mlp": mlp, "layernorm": norms}
    return layer - sum(saved[module] for module in set(memory.modules))


def _layer_temporary(config: Config, a: Architecture, *, tokens: int, recomputed: float, layer: float) -> int:
    """The gradients that live at once where a backward pass is widest, in the MLP; measured on the CPU (see the tests)."""
    tp, b = config.parallel.tp, BYTES[config.model.precision]
    gathered = a.hidden if config.parallel.sequence_parallel else 0
    flowing = tokens * b * (4 * a.hidden + gathered + a.ffn * (2 if a.gated else 1) / tp)
    weight_gradient = b * a.hidden * a.ffn * (2 if a.gated else 1) / tp if config.lora.rank == 0 else 0
    block_input = tokens * b * a.hidden if "mlp" in config.memory.modules else 0  # a copy that collects its gradient
    again = {"none": 0.0, "selective": recomputed + block_input, "full": config.memory.layers * layer}[config.memory.recompute]
    return round(flowing + weight_gradient + again)


def _head_temporary(config: Config, a: Architecture, *, tokens: int) -> int:
    """Logits in the model's precision with their fp32 copy, which becomes the softmax; or in backward the weight's gradient."""
    tp, b = config.parallel.tp, BYTES[config.model.precision]
    padded = padded_vocabulary(a.vocabulary, multiple=config.model.vocabulary_multiple, tp=tp)
    logits = tokens * padded // tp
    forward = logits * (FLOAT if b == FLOAT else FLOAT + b)
    trained = config.lora.rank == 0
    gradients = tokens * b * a.hidden + (b * a.hidden * padded // tp if trained else 0)
    backward = logits * b * (2 if padded != a.vocabulary else 1) + gradients
    return max(forward, backward) if trained else forward


def _or(value: float | None, base: float) -> float:
    return base if value is None else value


@functools.lru_cache(maxsize=4096)
def in_flight(kept: tuple[int, ...], *, stage: int, pp: int, micro_batches: int) -> int:
    """Most bytes kept at once on pipeline stage `stage`, over megatron-core's schedule (1F1B, interleaved with several pieces).

    Args:
        kept: of each piece on the stage, in the model's order, what one micro-batch keeps in it.

    >>> in_flight((10,), stage=0, pp=4, micro_batches=8), in_flight((10,), stage=3, pp=4, micro_batches=8)
    (40, 10)
    >>> in_flight((5, 5), stage=0, pp=4, micro_batches=8), in_flight((10,), stage=0, pp=4, micro_batches=2)
    (55, 20)
    """
    pieces, total = len(kept), micro_batches * len(kept)
    if pp == 1:
        warm_up = 0
    elif pieces == 1:
        warm_up = pp - stage - 1
    else:
        warm_up = 2 * (pp - stage - 1) + (pieces - 1) * pp
    if len(set(kept)) == 1:
        return kept[0] * min(warm_up + 1, total)

    def piece_of(turn: int) -> int:
        return turn % (pp * pieces) // pp

    now = most = 0
    for turn in range(min(total, warm_up + pp * pieces + 1)):  # after that it repeats
        now += kept[piece_of(turn)]
        most = max(most, now)
        if turn >= warm_up:
            now -= kept[pieces - 1 - piece_of(turn - warm_up)]
    return most

"""Weight rules: one table per family says which Hugging Face tensors make up which megatron-core tensor, both ways.

    Same    one tensor, the same numbers on both sides
    Rows    a vocabulary table: Megatron may hold padding rows behind the vocabulary, Hugging Face never does
    QKV     q, k, v projections <-> linear_qkv: per query group its query heads, then its key head, then its value head
    Gated   gate and up projections <-> linear_fc1: gate rows, then up rows
    Ignored a Hugging Face tensor that carries no information; dropped when read, never written

A rule moves rows and nothing else: `blocks` says which, for both directions, for whole tensors and for pieces of them.
Names hold `{i}` where the layer's number goes; Megatron names are those of the local layer spec. Shapes are words of
`sizes`. All tensors here are whole: cutting for tensor parallelism is megatron-core's own work at load time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from megatron_ft.errors import CheckpointError
from megatron_ft.families.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


def sizes(architecture: Architecture) -> dict[str, int]:
    """The words that a rule's shape may use."""
    a = architecture
    key = a.groups * a.head_width
    return {"hidden": a.hidden, "query": a.query_width, "key": key, "qkv": a.query_width + 2 * key, "ffn": a.ffn,
            "gate_up": 2 * a.ffn, "vocabulary": a.vocabulary, "positions": a.positions}


def _always(architecture: Architecture) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows that lie together, and in the same order, on both sides."""

    part: int
    """Which of the rule's Hugging Face tensors."""
    hf: int
    """First row in that."""
    megatron: int
    """First row in the megatron tensor."""
    rows: int


@dataclasses.dataclass(frozen=True)
class Same:
    """megatron = hf."""

    megatron: str
    hf: str
    shape: str
    when: Callable[[Architecture], bool] = _always
    """Whether an architecture has this weight at all."""

    def hf_tensors(self, a: Architecture) -> list[tuple[str, Shape]]:
        return [(self.hf, _shape(self.shape, a))]

    def megatron_shape(self, a: Architecture) -> Shape:
        return _shape(self.shape, a)

    def blocks(self, a: Architecture) -> list[Block]:
        return [Block(0, 0, 0, self.megatron_shape(a)[0])]


class Rows(Same):
    """megatron = hf, with any number of padding rows behind, which are cut off on the way out."""


@dataclasses.dataclass(frozen=True)
class QKV:
    """megatron = for each query group: its query heads, its key head, its value head; a weight or a bias.

    With 4 heads in 2 groups the rows are q0 q1 k0 v0 q2 q3 k1 v1 (each `head_width` rows).
    """

    megatron: str
    hf: tuple[str, str, str]
    columns: str = "hidden"
    """Empty for a bias."""
    when: Callable[[Architecture], bool] = _always

    def hf_tensors(self, a: Architecture) -> list[tuple[str, Shape]]:
        rows = ("query", "key", "key")
        return [(name, _shape(f"{row} {self.columns}", a)) for name, row in zip(self.hf, rows, strict=True)]

    def megatron_shape(self, a: Architecture) -> Shape:
        return _shape(f"qkv {self.columns}", a)

    def blocks(self, a: Architecture) -> list[Block]:
        queries, width = a.heads // a.groups * a.head_width, a.head_width
        found = []
        for group in range(a.groups):
            first = group * (queries + 2 * width)
            found += [Block(0, group * queries, first, queries), Block(1, group * width, first + queries, width),
                      Block(2, group * width, first + queries + width, width)]
        return found


@dataclasses.dataclass(frozen=True)
class Gated:
    """megatron = [gate; up], the order in which megatron-core's SwiGLU halves its input."""

    megatron: str
    hf: tuple[str, str]
    columns: str = "hidden"
    """Empty for a bias."""
    when: Callable[[Architecture], bool] = _always

    def hf_tensors(self, a: Architecture) -> list[tuple[str, Shape]]:
        return [(name, _shape(f"ffn {self.columns}", a)) for name in self.hf]

    def megatron_shape(self, a: Architecture) -> Shape:
        return _shape(f"gate_up {self.columns}", a)

    def blocks(self, a: Architecture) -> list[Block]:
        return [Block(0, 0, 0, a.ffn), Block(1, 0, a.ffn, a.ffn)]


@dataclasses.dataclass(frozen=True)
class Ignored:
    """A Hugging Face tensor without information of its own: a mask, a frequency table, a tied head."""

    hf: str
    equals: str = ""
    """Name of the tensor that it must be a copy of; empty: its values do not matter."""
    when: Callable[[Architecture], bool] = _always


Rule = Same | Rows | QKV | Gated
Table = tuple[Rule | Ignored, ...]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One rule at one place of one architecture: a megatron tensor and the Hugging Face tensors it is made of."""

    rule: Rule
    architecture: Architecture
    layer: int | None
    """Counted over the whole model from 0; None outside the layers."""

    @property
    def megatron(self) -> str:
        """Its name in a GPTModel with the local layer spec, e.g. `decoder.layers.3.mlp.linear_fc1.weight`."""
        return _placed(self.rule.megatron, self.layer)

    @property
    def megatron_shape(self) -> Shape:
        """Without vocabulary padding."""
        return self.rule.megatron_shape(self.architecture)

    @property
    def hf(self) -> list[tuple[str, Shape]]:
        """Names and shapes of its Hugging Face tensors, in the rule's order."""
        return [(_placed(name, self.layer), shape) for name, shape in self.rule.hf_tensors(self.architecture)]

    @property
    def blocks(self) -> list[Block]:
        """What lies where on both sides: every row once, ascending in the megatron tensor and in each Hugging Face tensor."""
        return self.rule.blocks(self.architecture)

    @property
    def padded(self) -> bool:
        """Whether the megatron tensor may have more rows than `megatron_shape` says."""
        return isinstance(self.rule, Rows)


def to_megatron(weight: Weight, tensors: Sequence[Tensor]) -> Tensor:
    """The megatron tensor made of a weight's Hugging Face tensors, given in the order of `weight.hf`."""
    import torch

    for (name, shape), tensor in zip(weight.hf, tensors, strict=True):
        _require_shape(name, tuple(tensor.shape), shape)
    blocks = weight.blocks
    if len(blocks) == 1:
        return tensors[0]
    return torch.cat([tensors[block.part][block.hf:block.hf + block.rows] for block in blocks])


def split_rows(weight: Weight, tensor: Tensor) -> list[Tensor]:
    """The Hugging Face tensors inside a megatron tensor, in the order of `weight.hf`.

    The tensor may have any width, as long as its rows are the megatron tensor's: an adapter's B.
    """
    import torch

    parts: list[list[Tensor]] = [[] for _ in weight.hf]
    for block in weight.blocks:  # in the order of the megatron rows, and so in that of each part's
        parts[block.part].append(tensor[block.megatron:block.megatron + block.rows])
    return [rows[0] if len(rows) == 1 else torch.cat(rows) for rows in parts]


def check_megatron_shape(weight: Weight, found: Shape, *, where: str = "") -> None:
    """Refuse a megatron tensor of another shape; a vocabulary table may have more rows (padding)."""
    expected = weight.megatron_shape
    if not (weight.padded and found[0] >= expected[0] and found[1:] == expected[1:]):
        _require_shape(f"{where}: {weight.megatron}" if where else weight.megatron, found, expected)


def weights(table: Table, architecture: Architecture) -> list[Weight]:
    """Every weight of the model in the table's order, layers unrolled: embeddings, layer 0, 1, ..., the end."""
    rules = [rule for rule in table if not isinstance(rule, Ignored) and rule.when(architecture)]
    in_layers = [rule for rule in rules if "{i}" in rule.megatron]
    first = rules.index(in_layers[0])
    last = rules.index(in_layers[-1])
    ordered = [Weight(rule, architecture, None) for rule in rules[:first]]
    ordered += [Weight(rule, architecture, layer) for layer in range(architecture.layers) for rule in in_layers]
    return ordered + [Weight(rule, architecture, None) for rule in rules[last + 1:]]


def ignored(table: Table, architecture: Architecture) -> dict[str, str]:
    """Hugging Face tensors to drop when read -> the name of the tensor that each must equal ("": none)."""
    found = {}
    for rule in table:
        if isinstance(rule, Ignored) and rule.when(architecture):
            places = range(architecture.layers) if "{i}" in rule.hf else [None]
            found.update({_placed(rule.hf, layer): rule.equals for layer in places})
    return found


def check_hf_tensors(table: Table, architecture: Architecture, found: Mapping[str, Shape], *, where: str) -> None:
    """Refuse a set of Hugging Face tensors that is not exactly the model's: missing, unknown or misshapen, by name."""
    expected = {name: shape for weight in weights(table, architecture) for name, shape in weight.hf}
    dropped = ignored(table, architecture)
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected and name not in dropped]
    if missing:
        raise CheckpointError(f"{where}: {_listed(missing)} missing, which {architecture.family} with "
                              f"{architecture.layers} layers has; copy the folder again or correct config.json")
    if unknown:
        raise CheckpointError(f"{where}: {_listed(unknown)} unknown to {architecture.family} with "
                              f"{architecture.layers} layers; converting would lose it, so nothing is converted")
    for name, shape in expected.items():
        _require_shape(f"{where}: {name}", tuple(found[name]), shape)


def _require_shape(name: str, found: Shape, expected: Shape) -> None:
    if found != expected:
        raise CheckpointError(f"{name} has shape {list(found)}, expected {list(expected)} from the model's config; "
                              "the config belongs to another model or the file is damaged")


def _listed(names: list[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"tensor{'s' * (len(names) > 1)} {', '.join(names[:most])}{rest} {'are' if len(names) > 1 else 'is'}"


def _placed(name: str, layer: int | None) -> str:
    return name if layer is None else name.replace("{i}", str(layer))


def _shape(words: str, architecture: Architecture) -> Shape:
    known: dict[str, Any] = sizes(architecture)
    return tuple(known[word] for word in words.split())

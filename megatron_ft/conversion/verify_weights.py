"""Compares every weight of a checkpoint with a Hugging Face folder's bit for bit, a few megabytes at a time."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from megatron_ft.conversion import opening, streams
from megatron_ft.conversion.hf_folder import pieces_of
from megatron_ft.conversion.streams import Pieces
from megatron_ft.conversion.verify_files import Pair
from megatron_ft.errors import CheckpointError
from megatron_ft.families.rules import Weight
from megatron_ft.runtime.dtypes import NAMES

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclasses.dataclass(frozen=True)
class Difference:
    """A tensor that is not the same in both."""

    hf: str
    megatron: str
    """The weight that it is, or is a part of."""
    numbers: int
    """How many differ."""
    largest: float
    """Absolute difference; 0 where only the sign of a zero differs."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """How the weights of a checkpoint compare with those of a Hugging Face folder."""

    tensors: int
    """Of the Hugging Face folder."""
    equal: int
    different: list[Difference]
    unreadable: list[str]
    """What is wrong with weights of which not every number can be had, a sentence each."""
    damaged: list[str]
    """Tensors that are not what was written, a sentence each."""
    hf_dtypes: list[str]
    checkpoint_dtypes: list[str]
    """Where they differ the checkpoint's numbers were cast to the folder's, as an export does."""

    @property
    def all_equal(self) -> bool:
        """Whether every bit is the same, and what was written."""
        return self.equal == self.tensors and not self.damaged


def compare_weights(pair: Pair, *, workers: int | None = None) -> Weights:
    """Read both once; memory is some pieces for each worker.

    Args:
        workers: how many weights at a time; None: one for each core, eight at most.
    """
    weights = opening.weights_of(pair.architecture)
    outcomes = [*streams.each(weights, lambda weight, pieces: _compare_one(weight, pair, pieces),
                              dtype=lambda weight: pair.reference.dtype(weight.megatron), label="weights", workers=workers)]
    dtypes = {pair.reference.files.dtypes[name] for weight in weights for name, _ in weight.hf}
    stored = {pair.opened.source.dtype(weight.megatron) for weight in weights}
    return Weights(tensors=sum(len(weight.hf) for weight in weights), equal=sum(outcome.equal for outcome in outcomes),
                   different=[each for outcome in outcomes for each in outcome.different],
                   unreadable=[outcome.unreadable for outcome in outcomes if outcome.unreadable],
                   damaged=[each for outcome in outcomes for each in outcome.damaged],
                   hf_dtypes=sorted(map(_name, dtypes)), checkpoint_dtypes=sorted(map(_name, stored)))


def _name(dtype: torch.dtype) -> str:
    return NAMES.get(dtype, str(dtype).removeprefix("torch."))


@dataclasses.dataclass(frozen=True)
class _Outcome:
    equal: int
    different: list[Difference] = dataclasses.field(default_factory=list)
    damaged: list[str] = dataclasses.field(default_factory=list)
    unreadable: str = ""


def _compare_one(weight: Weight, pair: Pair, pieces: Pieces) -> _Outcome:
    name = weight.megatron
    differing, largest = [0] * len(weight.hf), [0.0] * len(weight.hf)
    try:
        theirs, ours = pair.reference.reading(name), pair.opened.source.reading(name)
        for start, end in pieces:
            expected = theirs.rows(start, end)
            found = streams.cast(ours.rows(start, end), expected.dtype, name)
            if not same_bits(expected, found):
                for block in pieces_of(weight.blocks, start, end):
                    rows = slice(block.megatron - start, block.megatron - start + block.rows)
                    numbers, most = difference(expected[rows], found[rows])
                    differing[block.part] += numbers
                    largest[block.part] = max(largest[block.part], most)
        damaged = [f"{folder}: {wrong}" for folder, rows, noted in (
            (pair.hf, theirs, pair.noted), (pair.opened.folder, ours, pair.opened.tensor_crc32))
            for wrong in streams.wrong_sums(rows.finish(), noted)]
    except CheckpointError as error:
        return _Outcome(0, unreadable=str(error))
    different = [Difference(hf, name, numbers, most)
                 for (hf, _), numbers, most in zip(weight.hf, differing, largest, strict=True) if numbers]
    return _Outcome(len(weight.hf) - len(different), different, damaged)


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of one dtype and shape hold the same bits: 0 is not -0.

    >>> same_bits(torch.zeros(2), torch.zeros(2)), same_bits(torch.zeros(2), -torch.zeros(2))
    (True, False)
    """
    bits = _INTEGERS[left.element_size()]
    return torch.equal(left.view(bits), right.view(bits))


def difference(left: Tensor, right: Tensor) -> tuple[int, float]:
    """How many numbers of two finite tensors of one dtype differ in a bit, and the largest absolute difference.

    >>> difference(torch.tensor([1.0, 0.0, 3.0]), torch.tensor([1.0, -0.0, 2.5]))
    (2, 0.5)
    """
    bits = _INTEGERS[left.element_size()]
    unlike = left.view(bits) != right.view(bits)
    numbers = int(unlike.sum())
    return numbers, (left[unlike].double() - right[unlike].double()).abs().max().item() if numbers else 0.0


"""What all ranks must know or do together: an error of one is an error of each, so that none waits for it in vain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Every rank's value, on every rank, by rank."""
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def to_first(value: T) -> list[T]:
    """Every rank's value, by rank, on rank 0; an empty list on the others."""
    first = torch.distributed.get_rank() == 0
    found: list[Any] | None = [None] * torch.distributed.get_world_size() if first else None
    torch.distributed.gather_object(value, found, dst=0)
    return found or []


def from_first(value: T) -> T:
    """Rank 0's value, on every rank; what the others pass does not matter."""
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def all_true(claim: bool) -> bool:
    """Whether a claim holds on all ranks. One number is sent: cheap enough for every step."""
    flag = torch.tensor([int(claim)], device=torch.cuda.current_device())
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
    return bool(flag.item())


def total(number: int) -> int:
    """The sum of all ranks' numbers."""
    numbers = torch.tensor([number], dtype=torch.int64, device=torch.cuda.current_device())
    torch.distributed.all_reduce(numbers)
    return int(numbers.item())


def totals(numbers: Sequence[float]) -> list[float]:
    """The sums over all ranks of each number."""
    sums = torch.tensor(numbers, dtype=torch.float64, device=torch.cuda.current_device())
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def together(work: Callable[[], T], *, kind: type[Exception], first_only: bool = False) -> T | None:
    """Do something on all ranks, or on rank 0; where it fails on any, all ranks raise `kind` with what was said there.

    Args:
        work: may raise `kind` or OSError for what a user or the machine can cause; anything else passes as it is.
        first_only: rank 0 works, the others wait.
    """
    error, result = None, None
    if not first_only or torch.distributed.get_rank() == 0:
        try:
            result = work()
        except (kind, OSError) as found:
            error = found
    raise_first(str(error) if error else None, kind=kind, cause=error)
    return result


def raise_first(error: str | None, *, kind: type[Exception], cause: BaseException | None = None) -> None:
    """Raise `kind` on all ranks where any of them has an error: with the words of the first one, and its rank."""
    errors = gather(error)
    failed = [rank for rank, text in enumerate(errors) if text]
    if failed:
        where = "" if len(errors) == 1 else f" (on rank {failed[0]}{f' and {len(failed) - 1} more' if failed[1:] else ''})"
        raise kind(f"{errors[failed[0]]}{where}") from cause

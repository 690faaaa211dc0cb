"""Which documents of a run's ranges fit its rows, and what becomes of those that do not; each is counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from megatron_ft import log
from megatron_ft.data.source import View
from megatron_ft.errors import DataError

OnLong = Literal["stop", "drop", "truncate"]
OnUnsupervised = Literal["stop", "drop"]
LossOn = Literal["answers", "all"]


class Selection:
    """The documents of some views that can be trained on in rows of a given size, numbered 0..documents-1."""

    def __init__(self, views: Sequence[View], *, row_tokens: int, on_long: OnLong = "stop",
                 on_unsupervised: OnUnsupervised = "drop", loss_on: LossOn = "answers") -> None:
        """Apply the rules to documents of more than `row_tokens` + 1 tokens and to those without a supervised token.

        A document that is cut keeps its first `row_tokens` + 1 tokens. DataError where a rule is "stop".

        Args:
            loss_on: all supervises every token, whatever the datasets say; the first of a document is predicted by nothing.
        """
        if not views:
            raise DataError("data: no dataset is named; give at least one entry such as '0:0.95 data/mix'")
        self.views = list(views)
        self.row_tokens = row_tokens
        self.loss_on = loss_on
        self.counts: Counter[str] = Counter()
        """How many documents are "truncated", "dropped: too long", "dropped: no supervised token"."""
        kept = [self._fitting(view, on_long, on_unsupervised) for view in self.views]
        self.sizes = [len(numbers) for numbers in kept]
        """How many documents of each view stay; they are numbered view after view."""
        self._view = np.repeat(np.arange(len(kept)), self.sizes)
        self._number = np.concatenate(kept)
        lengths = [view.dataset.lengths[numbers] for view, numbers in zip(self.views, kept, strict=True)]
        self.positions = np.minimum(np.concatenate(lengths).astype(np.int64) - 1, row_tokens)
        """int64 [documents]: row positions that each takes, its tokens - 1."""
        self.documents = len(self._number)
        for reason, count in self.counts.items():
            log.get().info("data: %d documents %s (rows of %d tokens)", count, reason, row_tokens)
        if not self.documents:
            raise DataError(f"data: no document is left of {[str(view.entry) for view in self.views]} "
                            f"({dict(self.counts)}); use longer rows or other data")

    @property
    def end_of_text(self) -> int:
        """The id that fills what is left of a row (with loss_mask 0)."""
        return self.views[0].dataset.end_of_text

    @property
    def fingerprint(self) -> str:
        """Changes with the documents, their order and how they are cut; not with what of them is supervised."""
        datasets = [view.dataset.hashes for view in self.views]
        digest = hashlib.sha256(repr(datasets).encode())
        digest.update(np.stack([self._view, self._number, self.positions]).astype(np.int64).tobytes())
        return digest.hexdigest()[:16]

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids, int32 [n], and which are supervised, bool [n], cut to what fits into a row."""
        ids, supervised = self.views[self._view[index]].dataset.document(self._number[index])
        if self.loss_on == "all":
            supervised = np.ones(len(ids), dtype=bool)
        return ids[:self.row_tokens + 1], supervised[:self.row_tokens + 1]

    def identity(self, index: int) -> tuple[str, int]:
        """The dataset's prefix and the document's number in it."""
        return self.views[self._view[index]].entry.prefix, int(self._number[index])

    def _fitting(self, view: View, on_long: OnLong, on_unsupervised: OnUnsupervised) -> np.ndarray:
        """The numbers of a view's documents that stay, int64."""
        numbers = np.arange(view.first, view.last)
        numbers = self._apply_long_rule(view, numbers, on_long)
        lengths = view.dataset.lengths[numbers]
        answers = lengths - 1 if self.loss_on == "all" else view.dataset.supervised[numbers].copy()
        if self.loss_on == "answers":
            for at in np.flatnonzero(lengths > self.row_tokens + 1):  # what a cut leaves of answers
                answers[at] = view.dataset.document(numbers[at])[1][1:self.row_tokens + 1].sum()
        mute = numbers[answers == 0]
        if len(mute) and on_unsupervised == "stop":
            raise DataError(f"data: {len(mute)} documents of '{view.entry}' have no supervised token among their first "
                            f"{self.row_tokens + 1} (the first is document {mute[0]}) and would teach nothing; "
                            "leave them out of the input, or drop them (on_unsupervised)")
        self._count("dropped: no supervised token", len(mute))
        return numbers[answers > 0]

    def _apply_long_rule(self, view: View, numbers: np.ndarray, rule: OnLong) -> np.ndarray:
        lengths = view.dataset.lengths[numbers]
        is_long = lengths > self.row_tokens + 1
        if not is_long.any():
            return numbers
        if rule == "stop":
            raise DataError(f"data: {is_long.sum()} documents of '{view.entry}' do not fit into rows of "
                            f"{self.row_tokens} tokens (the first is document {numbers[is_long][0]}, the longest has "
                            f"{lengths.max()} tokens); use longer rows, or data.long_documents = drop or truncate")
        self._count("truncated" if rule == "truncate" else "dropped: too long", int(is_long.sum()))
        return numbers if rule == "truncate" else numbers[~is_long]

    def _count(self, reason: str, documents: int) -> None:
        if documents:
            self.counts[reason] += documents

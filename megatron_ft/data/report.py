"""What a person is told about a dataset."""

from __future__ import annotations

import numpy as np

from megatron_ft.data.indexed import Dataset
from megatron_ft.data.manifest import Manifest
from megatron_ft.data.tokenizer import Tokenizer
from megatron_ft.errors import ConfigError, DataError

GREEN, PLAIN = "\033[32m", "\033[0m"


def summary(prefix: str, manifest: Manifest) -> str:
    """The counts of a dataset, and the rows that were left out by reason."""
    counts = manifest.counts
    lines = [f"{prefix}: {counts['documents']:,} documents of {counts['rows']:,} rows, template {manifest.template}",
             f"  {counts['tokens']:,} tokens, {counts['supervised']:,} supervised "
             f"({counts['supervised'] / max(1, counts['tokens']):.1%})"]
    if counts["truncated"]:
        lines.append(f"  {counts['truncated']:,} documents truncated")
    lines += [f"  {entry['rows']:,} rows dropped: {reason} (first: {', '.join(entry['first'])})"
              for reason, entry in manifest.dropped.items()]
    return "\n".join(lines) + "\n"


def coloured(dataset: Dataset, number: int, reader: Tokenizer) -> str:
    """A document's text, its supervised tokens in green."""
    if not 0 <= number < dataset.documents:
        raise ConfigError(f"--document: {number} is not there; the dataset has documents 0 to {dataset.documents - 1}")
    if reader.fingerprint != dataset.manifest.tokenizer["fingerprint"]:
        raise DataError(f"{dataset.prefix}: was made with another tokenizer (its fingerprint is "
                        f"{dataset.manifest.tokenizer['fingerprint'][:12]}, this one's {reader.fingerprint[:12]}); "
                        "name the one it was made with")
    ids, supervised = dataset.document(number)
    ends = [*(np.flatnonzero(np.diff(supervised.astype(np.int8))) + 1).tolist(), len(ids)]
    shown, begun = "", ""
    for end in ends:
        text = reader.decode(ids[:end].tolist())  # from the start: SentencePiece drops the space that opens a text
        shown += (GREEN + text[len(begun):] + PLAIN) if supervised[end - 1] else text[len(begun):]
        begun = text
    return f"document {number}, {len(ids)} tokens, {supervised[1:].sum()} supervised:\n{shown}\n"

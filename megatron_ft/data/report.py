"""What a person is told about a dataset: its counts, how long its documents are, how well they fill rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_ft.data import tokenizer
from megatron_ft.data.indexed import Dataset, open_dataset
from megatron_ft.data.manifest import Manifest
from megatron_ft.data.pack import Packing
from megatron_ft.data.pairs import Pair, is_pair, open_pair
from megatron_ft.data.selection import Selection
from megatron_ft.data.source import Entry, View
from megatron_ft.data.tokenizer import Tokenizer
from megatron_ft.errors import ConfigError, DataError

PACKED_AT_MOST = 1_000_000
"""Documents; of more a sample is packed, as a hundred million would take minutes and tell the same."""
BAR_WIDTH = 48
BLOCKS = " ▏▎▍▌▋▊▉█"


def summary(prefix: str, manifest: Manifest) -> str:
    """The counts of a dataset, and the rows that were left out by reason."""
    counts = manifest.counts
    lines = [f"{prefix}: {counts['documents']:,} documents of {counts['rows']:,} rows, template {manifest.template}",
             f"  {counts['tokens']:,} tokens, {counts['supervised']:,} supervised "
             f"({counts['supervised'] / max(1, counts['tokens']):.1%})"]
    recipe = manifest.recipe
    if "fim_rate" in recipe:
        lines.append(f"  fill-in-the-middle: rate {recipe['fim_rate']}, of it {recipe['fim_spm_rate']} suffix first, loss on "
                     f"{recipe['fim_loss']}, seed {recipe['fim_seed']}, tokens {recipe['fim_tokens']}")
    if counts["truncated"]:
        lines.append(f"  {counts['truncated']:,} documents truncated")
    lines += [f"  {entry['rows']:,} rows dropped: {reason} (first: {', '.join(entry['first'])})"
              for reason, entry in manifest.dropped.items()]
    return "\n".join(lines) + "\n"


def open_to_read(prefix: str, tokenizer_path: str | None, *, decodes: bool) -> tuple[Dataset | Pair, Tokenizer | None]:
    """A dataset or dataset pair, and the tokenizer that made it (None if nobody needs it).

    Args:
        tokenizer_path: None: the one that the manifest names.
        decodes: documents are to be turned into text.
    """
    if is_pair(prefix):
        if tokenizer_path is None:
            raise ConfigError(f"--tokenizer: '{prefix}' is a dataset pair, which does not say what made its ids; name the "
                              "tokenizer")
        reader = tokenizer.load(tokenizer_path)
        return open_pair(prefix, end_of_text=reader.end_of_text), reader
    dataset = open_dataset(prefix)
    return dataset, tokenizer_of(dataset.manifest, prefix, tokenizer_path) if decodes or tokenizer_path else None


def tokenizer_of(manifest: Manifest, prefix: str, path: str | None) -> Tokenizer:
    """The tokenizer that made a dataset; DataError if the one at `path` (None: where the manifest says) is another."""
    named = manifest.recipe.get("tokenizer")
    if path is None and (named is None or not Path(named).exists()):
        was = f"; it was at {named}, which is not there" if named else ""
        raise ConfigError(f"--tokenizer: name the tokenizer that '{prefix}' was made with{was}")
    reader = tokenizer.load(path or named)
    if reader.fingerprint != manifest.tokenizer["fingerprint"]:
        raise DataError(f"{prefix}: was made with another tokenizer (its fingerprint is "
                        f"{manifest.tokenizer['fingerprint'][:12]}, that of {path or named} is {reader.fingerprint[:12]}); "
                        "name the one it was made with by --tokenizer")
    return reader


def statistics(dataset: Dataset | Pair) -> str:
    """What `summary` does not tell: kinds, lengths of documents, documents without a supervised token."""
    lines = []
    if isinstance(dataset, Dataset):
        if dataset.manifest.kinds:
            kinds = ", ".join(f"{kind} {rows:,}" for kind, rows in dataset.manifest.kinds.items())
            lines.append(f"  kinds of rows: {kinds}")
    else:
        tokens, supervised = (int(column.sum(dtype=np.int64)) for column in (dataset.lengths, dataset.supervised))
        lines += [f"{dataset.prefix}: {dataset.documents:,} documents of a dataset pair (OctoPack's Megatron)",
                  f"  {tokens:,} tokens, {supervised:,} supervised ({supervised / max(1, tokens):.1%})"]
    if dataset.documents:
        for name, column in (("tokens of a document", dataset.lengths), ("of them supervised", dataset.supervised)):
            lines.append(f"  {name + ':':<22}{_quantiles(column)}")
    mute = np.flatnonzero(dataset.supervised == 0)
    if len(mute):
        lines.append(f"  {len(mute):,} documents without a supervised token, left out in training (first: document {mute[0]})")
    return "".join(f"{line}\n" for line in lines)


def _quantiles(column: np.ndarray) -> str:
    """In whole tokens: each is the value of some document.

    >>> _quantiles(np.arange(1, 101))
    'min 1, median 50, mean 50.5, p90 90, p99 99, max 100'
    """
    median, p90, p99 = np.percentile(column, [50, 90, 99], method="inverted_cdf").tolist()
    return (f"min {column.min():,}, median {median:,}, mean {column.mean():,.1f}, p90 {p90:,}, p99 {p99:,}, "
            f"max {column.max():,}")


def edges_of(lengths: np.ndarray, *, per_doubling: int) -> np.ndarray:
    """Bounds of bins that grow like the lengths, int64; bin i holds the lengths from edges[i] to edges[i + 1] - 1.

    >>> edges_of(np.array([5, 30]), per_doubling=2).tolist()
    [4, 6, 8, 12, 16, 23, 32]
    """
    least, most = (int(np.floor(np.log2(length) * per_doubling)) for length in (lengths.min(), lengths.max()))
    edges = np.unique(np.ceil(np.exp2(np.arange(least - 1, most + 3) / per_doubling) - 1e-9).astype(np.int64))
    first = int(np.searchsorted(edges, lengths.min(), "right")) - 1
    last = int(np.searchsorted(edges, lengths.max(), "right"))
    return edges[first:last + 1]


def histogram(dataset: Dataset | Pair, *, blocks: str = BLOCKS) -> str:
    """How many documents have how many tokens, a bar a line.

    Args:
        blocks: what bars are drawn with, from nothing to a full place.
    """
    if not dataset.documents:
        return ""
    edges = edges_of(dataset.lengths, per_doubling=2)
    counts = np.histogram(dataset.lengths, [*edges[:-1], edges[-1] - 0.5])[0].tolist()
    labels = [f"{low:,}-{high - 1:,}" if high - 1 > low else f"{low:,}" for low, high in zip(edges, edges[1:], strict=False)]
    width = max(len("tokens"), *map(len, labels))
    lines = [f"  {'tokens':>{width}}  {'documents':<{BAR_WIDTH}} {'':>13} up to here"]
    so_far = 0
    for label, count in zip(labels, counts, strict=True):
        so_far += count
        lines.append(f"  {label:>{width}}  {_bar(count / max(counts), blocks):<{BAR_WIDTH}} {count:>13,} "
                     f"{percent(so_far / dataset.documents):>10}")
    return "\n".join(lines) + "\n"


def percent(share: float) -> str:
    """A share that reads as all only if it is all.

    >>> percent(1.0), percent(0.99996), percent(0.5)
    ('100%', '99.99%', '50.0%')
    """
    if share == 1:
        return "100%"
    return f"{share:.1%}" if share < 0.999 else f"{np.floor(share * 1e4) / 1e4:.2%}"


def _bar(share: float, blocks: str) -> str:
    """A bar of up to BAR_WIDTH places; what is above 0 is seen.

    >>> _bar(0.5, BLOCKS) == "█" * 24, _bar(1e-9, BLOCKS), _bar(0, BLOCKS)
    (True, '▏', '')
    """
    steps = len(blocks) - 1
    filled = int(np.ceil(share * BAR_WIDTH * steps))
    return (blocks[-1] * (filled // steps) + blocks[filled % steps]).rstrip()


def fit(dataset: Dataset | Pair, row_tokens: int) -> str:
    """How many documents are too long for rows, and how full the rows of the others are."""
    if row_tokens < 2:
        raise ConfigError(f"--row-tokens: rows of {row_tokens} tokens hold no document; 2 is the least")
    long = int((dataset.lengths > row_tokens + 1).sum())
    lines = [f"  rows of {row_tokens:,} tokens: {long:,} documents ({long / max(1, dataset.documents):.2%}) do not fit"
             + (" (data.long_documents: stop, drop or truncate)" if long else "")]
    if long == dataset.documents:
        return lines[0] + "\n"
    whole = View(dataset, Entry(str(dataset.prefix)), 0, dataset.documents)
    positions = Selection([whole], row_tokens=row_tokens, on_long="drop").positions
    is_sampled = len(positions) > PACKED_AT_MOST
    sample = np.random.RandomState(0).choice(positions, PACKED_AT_MOST, replace=False) if is_sampled else positions
    fill = Packing(sample, row_tokens).fill
    rows = int(np.ceil(positions.sum() / (row_tokens * fill) - 1e-6))
    lines.append(f"  {len(positions):,} documents packed: {'about ' * is_sampled}{rows:,} rows, {percent(fill)} full"
                 + (f" (measured on {PACKED_AT_MOST:,} of them)" if is_sampled else ""))
    return "\n".join(lines) + "\n"

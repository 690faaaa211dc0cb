"""Every check that training makes of a dataset when it opens it, and those that take reading all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from megatron_ft.data import scan as scanner
from megatron_ft.data.indexed import Dataset, map_tokens, read_index, with_suffix
from megatron_ft.data.manifest import Manifest, file_sha256
from megatron_ft.data.pairs import is_pair, pair_of_half
from megatron_ft.data.partial import SUFFIXES
from megatron_ft.data.source import open_views, parse_entry
from megatron_ft.data.tokenizer import Tokenizer
from megatron_ft.errors import ConfigError, DataError

Result = Literal["ok", "warning", "FAILED", "skipped"]
T = TypeVar("T")
TOGETHER = "all together"


@dataclasses.dataclass(frozen=True)
class Check:
    """One check's answer."""

    name: str
    result: Result
    detail: str
    document: int | None = None
    """The first one that the check complains of."""


@dataclasses.dataclass
class Verdict:
    """What was found of one dataset, or of all TOGETHER."""

    subject: str
    checks: list[Check] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no check failed; warnings are no failures."""
        return all(check.result != "FAILED" for check in self.checks)

    def add(self, name: str, result: Result, detail: str, document: int | None = None) -> None:
        """Note an answer."""
        self.checks.append(Check(name, result, detail, document))

    def attempt(self, name: str, work: Callable[[], T], detail: str) -> T | None:
        """Note whether `work` raises a DataError; what it gives, or None."""
        try:
            given = work()
        except DataError as error:
            self.add(name, "FAILED", str(error))
            return None
        self.add(name, "ok", detail)
        return given


def validate(entries: Sequence[str], *, reader: Tokenizer | None = None, row_tokens: int | None = None) -> list[Verdict]:
    """Check datasets one by one, then together, as training opens them.

    Memory: of the largest dataset what training has in memory of it, and 8 bytes a document for finding copies.

    Args:
        entries: prefixes, with a range where training has one: "0:0.95 data/mix".
        reader: the tokenizer that the datasets should have been made with.
        row_tokens: length of the rows to be trained on.
    """
    if row_tokens is not None and row_tokens < 2:
        raise ConfigError(f"--row-tokens: rows of {row_tokens} tokens hold no document; 2 is the least")
    verdicts, fingerprints = [], {}
    for prefix in dict.fromkeys(parse_entry(text).prefix for text in entries):
        _require_dataset(prefix)
        verdict = Verdict(prefix)
        found = _examine(verdict, Path(prefix), reader, row_tokens)
        if found is not None:
            fingerprints[prefix] = found
        verdicts.append(verdict)
    together = Verdict(TOGETHER)
    together.attempt("opens in training", lambda: open_views(entries), f"{len(entries)} entries, with their ranges")
    for at, prefix in enumerate(fingerprints):
        _note_shared(together, prefix, [fingerprints[other] for other in list(fingerprints)[:at]], fingerprints[prefix])
    return [*verdicts, together]


def _require_dataset(prefix: str) -> None:
    pair = prefix if is_pair(prefix) else pair_of_half(prefix)
    if pair is not None and is_pair(pair):
        raise DataError(f"'{prefix}' is a dataset pair of OctoPack's Megatron, or half of one, which has no manifest to be "
                        "compared with; training reads all of it when it opens it, and preprocess/inspect_dataset.py shows it")
    if not any(with_suffix(Path(prefix), suffix).exists() for suffix in SUFFIXES):
        raise DataError(f"there is no dataset '{prefix}'; name what --output of preprocess/tokenize_sft.py named")


def _examine(verdict: Verdict, prefix: Path, reader: Tokenizer | None, row_tokens: int | None) -> np.ndarray | None:
    """Note all checks of one dataset; the fingerprints of its documents, if it can be read."""
    bin_path, idx_path, json_path = (with_suffix(prefix, suffix) for suffix in SUFFIXES)
    missing = [path.name for path in (bin_path, idx_path, json_path) if not path.is_file()]
    if missing:
        verdict.add("files", "FAILED", f"{', '.join(missing)} missing: the dataset was never finished, or not all of it copied")
        return None
    verdict.add("files", "ok", ", ".join(path.name for path in (bin_path, idx_path, json_path)))
    manifest = verdict.attempt("manifest", lambda: Manifest.read(json_path), f"{json_path.name} is whole")
    index = verdict.attempt("index", lambda: read_index(idx_path), f"{idx_path.name} is in itself right")
    if manifest is not None:
        _note_hash(verdict, idx_path, file_sha256(idx_path), manifest.idx_file)
    tokens = None
    if index is not None:
        tokens = verdict.attempt("size of .bin", lambda: map_tokens(bin_path, index), "as the index asks for")
    if manifest is None or index is None or tokens is None:
        if manifest is not None:
            _note_hash(verdict, bin_path, file_sha256(bin_path), manifest.bin_file)
        verdict.add("content", "skipped", "cannot be read without a manifest, an index and a .bin that fit one another")
        return None
    dataset = Dataset(prefix, index, tokens, manifest)
    is_made_by_reader = _note_tokenizer(verdict, manifest, reader)
    scan = scanner.scan(tokens, dataset.lengths, vocabulary=dataset.vocabulary, end_of_text=dataset.end_of_text,
                        opening=reader.begin if is_made_by_reader else (), label=f"validate {prefix.name}")
    _note_hash(verdict, bin_path, scan.sha256, manifest.bin_file)
    _note_counts(verdict, dataset)
    _note_ids(verdict, dataset, scan)
    _note_ends(verdict, dataset, scan)
    if is_made_by_reader:
        _note_openings(verdict, scan, reader)
        _note_decoding(verdict, scan, reader)
    _note_supervised(verdict, dataset)
    if row_tokens is not None:
        _note_long(verdict, dataset, row_tokens)
    _note_copies(verdict, scan)
    return scan.fingerprints


def _note_hash(verdict: Verdict, path: Path, sha256: str, described: dict[str, Any]) -> None:
    name = f"hash of {path.suffix}"
    if sha256 == described["sha256"]:
        verdict.add(name, "ok", f"sha256 {sha256}")
    else:
        verdict.add(name, "FAILED", f"{path.name} has sha256 {sha256[:12]}, the manifest says {described['sha256'][:12]}: it "
                                    "is damaged or of another dataset; copy it again or make it again")


def _note_tokenizer(verdict: Verdict, manifest: Manifest, reader: Tokenizer | None) -> bool:
    """Whether the tokenizer is the one that made the dataset."""
    if reader is None:
        verdict.add("tokenizer", "skipped", "name it by --tokenizer: how documents begin and decode is checked with it")
        return False
    given = {"fingerprint": reader.fingerprint, "vocabulary": reader.vocabulary, "end_of_text": reader.end_of_text}
    different = [f"{name} {manifest.tokenizer[name]!s:.12} (given: {given[name]!s:.12})" for name in given
                 if manifest.tokenizer[name] != given[name]]
    if different:
        verdict.add("tokenizer", "FAILED", f"the dataset was made with another one: {', '.join(different)}")
    else:
        verdict.add("tokenizer", "ok", f"made the dataset (fingerprint {reader.fingerprint[:12]})")
    return not different


def _note_counts(verdict: Verdict, dataset: Dataset) -> None:
    said = dataset.manifest.counts
    found = {"documents": dataset.documents, "tokens": int(dataset.lengths.sum(dtype=np.int64)),
             "supervised": int(dataset.supervised.sum(dtype=np.int64))}
    dropped = sum(entry["rows"] for entry in dataset.manifest.dropped.values())
    faults = [f"{name}: manifest {said.get(name, 0):,}, index {count:,}" for name, count in found.items()
              if said.get(name, 0) != count]
    if said.get("rows", 0) != said.get("documents", 0) + dropped:
        faults.append(f"rows: {said.get('rows', 0):,} read, but {said.get('documents', 0):,} written and {dropped:,} dropped")
    verdict.add("counts", "FAILED" if faults else "ok",
                "; ".join(faults) or ", ".join(f"{count:,} {name}" for name, count in found.items()))


def _note_ids(verdict: Verdict, dataset: Dataset, scan: scanner.Scan) -> None:
    if scan.first_strange is None:
        verdict.add("ids", "ok", f"all below the vocabulary, {dataset.vocabulary:,}; {int(scan.used.sum()):,} different ones")
        return
    token, document = scan.first_strange
    verdict.add("ids", "FAILED", f"{scan.strange_ids:,} tokens are no ids from 0 to {dataset.vocabulary - 1} (first: {token} "
                                 f"in document {document})", document)


def _note_ends(verdict: Verdict, dataset: Dataset, scan: scanner.Scan) -> None:
    """A document that was cut at --max-length lost its end, and no other may lack it."""
    unended, truncated = scan.unended, dataset.manifest.counts.get("truncated", 0)
    cut_at = dataset.manifest.recipe.get("max_length")  # of several, where datasets were merged, it is text
    wrong = unended[dataset.lengths[unended] != cut_at] if isinstance(cut_at, int) else unended[:0]
    if len(unended) > truncated and not len(wrong):
        wrong = unended
    if len(wrong):
        verdict.add("ends", "FAILED", f"{len(unended):,} documents do not end with the end-of-text id {dataset.end_of_text}, "
                                      f"and {truncated:,} were truncated (first: document {wrong[0]})", int(wrong[0]))
    else:
        but = f", but for {len(unended):,} truncated ones" if len(unended) else ""
        verdict.add("ends", "ok", f"documents end with the end-of-text id {dataset.end_of_text}{but}")


def _note_openings(verdict: Verdict, scan: scanner.Scan, reader: Tokenizer) -> None:
    if len(scan.unopened):
        first = int(scan.unopened[0])
        verdict.add("openings", "FAILED", f"{len(scan.unopened):,} documents do not begin with the tokenizer's opening ids "
                                          f"{reader.begin} (first: document {first})", first)
    else:
        verdict.add("openings", "ok", f"documents begin with {reader.begin}" if reader.begin else "the tokenizer writes none")


def _note_decoding(verdict: Verdict, scan: scanner.Scan, reader: Tokenizer) -> None:
    used = np.flatnonzero(scan.used).tolist()
    try:
        silent = [token for token in used if not reader.decode([token]) and token not in (*reader.begin, reader.end_of_text)]
    except Exception as error:  # of three libraries, each with its own
        verdict.add("decoding", "FAILED", f"an id has no text: {error}")
        return
    if silent:
        verdict.add("decoding", "warning", f"{len(silent):,} of {len(used):,} different ids have no text (first: {silent[0]}); "
                                           "control symbols have none, ids of another tokenizer neither")
    else:
        verdict.add("decoding", "ok", f"{len(used):,} different ids have text")


def _note_supervised(verdict: Verdict, dataset: Dataset) -> None:
    mute = np.flatnonzero(dataset.supervised == 0)
    if len(mute):
        verdict.add("supervised", "warning", f"{len(mute):,} documents without a supervised token, which training leaves out "
                                             f"(first: document {mute[0]})", int(mute[0]))
    else:
        verdict.add("supervised", "ok", "every document has a supervised token")


def _note_long(verdict: Verdict, dataset: Dataset, row_tokens: int) -> None:
    long = np.flatnonzero(dataset.lengths > row_tokens + 1)
    if len(long):
        verdict.add("row length", "warning",
                    f"{len(long):,} documents do not fit into rows of {row_tokens:,} tokens (first: document {long[0]}; the "
                    f"longest has {dataset.lengths.max():,}): training stops, drops or cuts, as data.long_documents says",
                    int(long[0]))
    else:
        verdict.add("row length", "ok", f"every document fits into a row of {row_tokens:,} tokens")


def _note_copies(verdict: Verdict, scan: scanner.Scan) -> None:
    count, pair = scanner.copies(scan.fingerprints)
    if pair is None:
        verdict.add("copies", "ok", "no document is there twice")
    else:
        verdict.add("copies", "warning", f"{count:,} documents equal an earlier one (first: document {pair[1]} equals "
                                         f"document {pair[0]})", pair[1])


def _note_shared(together: Verdict, prefix: str, before: list[np.ndarray], own: np.ndarray) -> None:
    """Documents that another dataset has too: what is validated on may have been trained on."""
    if not before:
        return
    shared = np.flatnonzero(np.isin(own, np.concatenate(before)))
    if len(shared):
        together.add("shared documents", "warning", f"{len(shared):,} documents of {prefix} are in those named before it too "
                                                    f"(first: document {shared[0]})", int(shared[0]))
    else:
        together.add("shared documents", "ok", f"no document of {prefix} is in those named before it")


def to_text(verdicts: Sequence[Verdict]) -> str:
    """A table: result, check, detail."""
    width = max(len(check.name) for verdict in verdicts for check in verdict.checks)
    lines = []
    for verdict in verdicts:
        lines.append(f"{verdict.subject}: {'ok' if verdict.ok else 'FAILED'}")
        lines += [f"  {check.result:<7}  {check.name:<{width}}  {check.detail}" for check in verdict.checks]
    return "\n".join(lines) + "\n"


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The same for a program."""
    return {"ok": all(verdict.ok for verdict in verdicts),
            "verdicts": [{"subject": verdict.subject, "ok": verdict.ok,
                          "checks": [dataclasses.asdict(check) for check in verdict.checks]} for verdict in verdicts]}

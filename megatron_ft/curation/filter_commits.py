"""Commits that read as instructions, out of all commits: rows through CommitPackFT's rules, or the user's."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ft import log
from megatron_ft.curation.commit_rules import TOKEN_LENGTH, Rule, fits_tokens
from megatron_ft.curation.output import beside, json_line, require_writable, share, short, show_counts, write_report, writing
from megatron_ft.curation.stream import BadRows, OnBadRow, Source, good_rows
from megatron_ft.data import tokenizer, tokenizer_fast
from megatron_ft.data.example import RowError
from megatron_ft.data.input_files import Chunk
from megatron_ft.data.rows import Dropped, Row, json_type
from megatron_ft.data.tokenizer import Tokenizer
from megatron_ft.errors import ConfigError

SUBJECT_KEYS = ("subject", "message")


@dataclasses.dataclass
class Verdict:
    """What became of a row."""

    row: Row
    commit: dict[str, Any]
    """The row's object, with the subject that the rules ask about."""
    dropped_by: str | None = None
    edits: list[str] = dataclasses.field(default_factory=list)
    unclear_to: list[str] = dataclasses.field(default_factory=list)
    """Rules that could not tell: a field is missing."""

    def to_line(self) -> bytes:
        """The row as it stands in the input, if no rule changed its subject."""
        if not self.edits:
            return self.row.to_line()
        return json_line(self.row.value | {"subject": self.commit["subject"]})


@dataclasses.dataclass
class Filtered:
    """What a chunk gave."""

    kept: bytes
    rejected: bytes
    counts: dict[str, int]
    """{"rows", "kept", "edited"}; rows that are no commits are not among them."""
    dropped: dict[str, dict[str, Any]]
    """See `Dropped.by_reason`."""
    edited: dict[str, dict[str, Any]]
    unclear: dict[str, dict[str, Any]]
    bad: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Filter:
    """The rules, ready to be applied to a chunk by any process."""

    rules: tuple[Rule, ...]
    tokenizer: str | None = None
    on_bad_row: OnBadRow = "stop"
    with_rejected: bool = False

    def __call__(self, chunk: Chunk) -> Filtered:
        """The commits that stay, in order."""
        bad = BadRows(self.on_bad_row)
        verdicts = []
        for row in good_rows(chunk, bad):
            try:
                verdicts.append(judge(row, self.rules))
            except RowError as error:
                bad.add(error, row.source)
        rule = next((rule for rule in self.rules if rule.name == TOKEN_LENGTH), None)
        if rule is not None:
            _judge_lengths([verdict for verdict in verdicts if verdict.dropped_by is None], rule, _reader(self.tokenizer))
        dropped, edited, unclear = Dropped(), Dropped(), Dropped()
        for verdict in verdicts:
            source = verdict.row.source
            if verdict.dropped_by is not None:
                dropped.add(verdict.dropped_by, source)
            for counted, names in ((edited, verdict.edits), (unclear, verdict.unclear_to)):
                for name in names:
                    counted.add(name, source)
        kept = [verdict for verdict in verdicts if verdict.dropped_by is None]
        rejected = [verdict for verdict in verdicts if self.with_rejected and verdict.dropped_by is not None]
        counts = {"rows": len(verdicts), "kept": len(kept), "edited": sum(bool(verdict.edits) for verdict in kept)}
        lines = [json_line({"rule": verdict.dropped_by, "source": verdict.row.source, "row": verdict.row.value})
                 for verdict in rejected]
        return Filtered(b"".join(verdict.to_line() for verdict in kept), b"".join(lines), counts, dropped.by_reason,
                        edited.by_reason, unclear.by_reason, bad.found)


def judge(row: Row, rules: Sequence[Rule]) -> Verdict:
    """What the rules say of a row, but for the one that counts tokens; RowError if it is no commit.

    >>> from megatron_ft.curation.commit_rules import RULES
    >>> row = Row("f:1", {"subject": "[net] Fix it", "old_contents": "a", "new_contents": "b"}, None)
    >>> verdict = judge(row, RULES)
    >>> verdict.dropped_by, verdict.edits, verdict.unclear_to
    ('subject_length', ['strip_opening'], ['wrong_extension', 'file_named'])
    """
    commit = dict(row.value) | {"subject": _subject(row)}
    for key in ("old_contents", "new_contents"):
        _require_text(row, key)
    verdict = Verdict(row, commit)
    for rule in rules:
        if rule.name == TOKEN_LENGTH:
            continue
        answer = rule.apply(commit, **rule.parameters)
        if rule.kind == "edit":
            if answer != commit["subject"]:
                commit["subject"] = answer
                verdict.edits.append(rule.name)
        elif answer is None:
            verdict.unclear_to.append(rule.name)
        elif not answer:
            verdict.dropped_by = rule.name
            break
    return verdict


def run(inputs: Sequence[str], output: str | Path, rules: tuple[Rule, ...], *, tokenizer_path: str | None = None,
        workers: int = 1, on_bad_row: OnBadRow = "stop", rejected: str | Path | None = None,
        split: str = "train") -> dict[str, Any]:
    """Write the commits that stay to OUTPUT and what happened to OUTPUT.report.json, which is returned.

    The outputs depend on the input and the rules alone, not on `workers`.

    Args:
        rejected: where to write the rows that were dropped, each with its rule and source.
    """
    output = Path(output)
    others = [] if rejected is None else [Path(rejected)]
    require_writable(("--output", output), ("--output", beside(output, "report.json")),
                     *(("--rejected", path) for path in others))
    if output in others:
        raise ConfigError(f"--rejected: {output} is --output too; name another file")
    if any(rule.name == TOKEN_LENGTH for rule in rules) and tokenizer_path is None:
        raise ConfigError(f"--tokenizer: is not given, and the rule {TOKEN_LENGTH} counts tokens; name the tokenizer of the "
                          f"model to be trained, or switch the rule off: off = [\"{TOKEN_LENGTH}\"] in a --rules file")
    source = Source(inputs, split=split)
    work = Filter(rules, tokenizer_path, on_bad_row, with_rejected=bool(others))
    counts = dict.fromkeys(("rows", "kept", "edited"), 0)
    dropped, edited, unclear, bad = Dropped(), Dropped(), Dropped(), Dropped()
    with writing(output, *others) as streams:
        for result in source.map(work, workers=workers, label="filter"):
            streams[0].write(result.kept)
            if others:
                streams[1].write(result.rejected)
            counts = {name: counts[name] + result.counts[name] for name in counts}
            for whole, part in ((dropped, result.dropped), (edited, result.edited), (unclear, result.unclear)):
                whole.merge(part)
            for reason, place in result.bad:
                bad.add(reason, place)
    counts = {"rows": counts["rows"] + bad.rows, "kept": counts["kept"], "edited": counts["edited"], "dropped": dropped.rows,
              "bad": bad.rows}
    return write_report(output, command="filter_commits", inputs=source.describe(), counts=counts, bad_rows=bad.by_reason,
                        rules=[_describe(rule, dropped, edited, unclear) for rule in rules],
                        tokenizer=tokenizer_path and _reader(tokenizer_path).fingerprint,
                        rejected=[str(path) for path in others])


def show(report: dict[str, Any]) -> None:
    """Print what became of the rows, rule by rule."""
    total = report["counts"]["rows"]
    log.table("rules in the order in which they were applied", ["rule", "does", "rows", "share", "cannot tell", "first"],
              [[rule["name"], "edit" if rule["kind"] == "edit" else "drop", rule["rows"], share(rule["rows"], total),
                rule["cannot_tell"], ", ".join(map(short, rule["first"][:1]))] for rule in report["rules"]])
    show_counts(report)


def _subject(row: Row) -> str:
    """The subject; else the first line of the message."""
    key = next((key for key in SUBJECT_KEYS if row.value.get(key) not in (None, "")), "subject")
    return _require_text(row, key).strip().partition("\n")[0].strip() if key == "message" else _require_text(row, key)


def _require_text(row: Row, key: str) -> str:
    text = row.value.get(key)
    if not isinstance(text, str):
        what = f"'{key}' is a JSON {json_type(text)}" if key in row.value else f"'{key}' is missing"
        raise RowError(f"no '{key}'", f"{row.source}: {what} where a commit has a string; its keys are old_contents, "
                       "new_contents and subject (or message)")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError("lone surrogate", f"{row.source}: '{key}' has a lone surrogate at character {error.start + 1}, "
                           "which is no text") from error
    return text


def _judge_lengths(verdicts: list[Verdict], rule: Rule, reader: Tokenizer) -> None:
    """Drop the commits whose files are too short or too long in tokens."""
    counts = [reader.encode_flat([verdict.commit[key] for verdict in verdicts], first=first)[1]
              for key, first in (("old_contents", True), ("new_contents", False))]
    for verdict, old, new in zip(verdicts, *counts, strict=True):
        if not fits_tokens(int(old + new) + 1, **rule.parameters):  # 1: the end-of-text token between them
            verdict.dropped_by = rule.name
    reader.forget()


@functools.lru_cache(maxsize=1)
def _reader(path: str) -> Tokenizer:
    """Loaded once per process."""
    return tokenizer_fast.fastest(tokenizer.load(path))


def _describe(rule: Rule, dropped: Dropped, edited: Dropped, unclear: Dropped) -> dict[str, Any]:
    nothing: dict[str, Any] = {"rows": 0, "first": []}
    counted = (edited if rule.kind == "edit" else dropped).by_reason.get(rule.name, nothing)
    return {"name": rule.name, "kind": rule.kind, "description": rule.description, "is_added": rule.is_added,
            "parameters": rule.parameters, **counted, "cannot_tell": unclear.by_reason.get(rule.name, nothing)["rows"]}

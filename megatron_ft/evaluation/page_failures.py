"""The failures of a run as part of its page: why, what was printed, and how the program differs from the solutions.

A program is hostile text here too: every character of it is escaped, and what a browser would not show is spelled out.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest

from megatron_ft.evaluation import scenarios
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.run_folder import Key

WHOLE_FAILURES = 500
WHOLE_BYTES = 6_000_000
"""Failures that are shown with their programs: so many, and no more than so many bytes of page; the others are a line."""
TEXT_CHARACTERS, TEXT_LINES, REASON_CHARACTERS = 8000, 240, 160
INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


@dataclass(frozen=True)
class Failure:
    """One problem of one scenario that not every sample solved."""

    language: str
    scenario: str
    task_id: str
    samples: int
    passed: int
    row: Mapping
    """Of results.jsonl: the first of the wrong program that came most often."""
    program: str
    wrong: int
    """Different wrong programs."""


def find(samples: Mapping[Key, Mapping], results: Mapping[Key, Mapping]) -> list[Failure]:
    """Every problem with a wrong answer, in the order of the results."""
    groups: dict[tuple[str, str, str], list[Mapping]] = defaultdict(list)
    for row in results.values():
        groups[row["language"], row["scenario"], row["task_id"]].append(row)
    found = []
    for (language, scenario, task_id), rows in groups.items():
        wrong = [row for row in rows if row["status"] != "passed"]
        if wrong:
            often = Counter(row["program_sha256"] for row in wrong)
            row = next(row for row in wrong if row["program_sha256"] == often.most_common(1)[0][0])
            program = samples.get((task_id, scenario, row["sample"]), {}).get("program", "")
            found.append(Failure(language, scenario, task_id, len(rows), len(rows) - len(wrong), row, program, len(often)))
    return found


def section(failures: Sequence[Failure], problems: Mapping[str, Problem], mode: str) -> str:
    """The list with its filter; as many as fit are whole, taken from all languages and scenarios in turn."""
    whole: dict[int, str] = {}
    room = WHOLE_BYTES
    for at in _in_turn(failures)[:WHOLE_FAILURES]:
        text = _whole(failures[at], problems.get(failures[at].task_id), mode)
        room -= len(text.encode())
        if room < 0:
            break
        whole[at] = text
    items = [_item(failure, whole.get(at)) for at, failure in enumerate(failures)]
    left = (f'<p class="soft">{len(whole)} of {len(failures)} are shown with their programs; samples.jsonl and results.jsonl '
            "have all of them.</p>" if len(whole) < len(failures) else "")
    return f"{_filter(failures)}{left}{''.join(items)}"


def shown(text: str, characters: int = TEXT_CHARACTERS) -> str:
    """A text, cut, with what cannot be seen spelled out; not escaped yet.

    >>> shown("a\\tb\\x00c\\u202ed\\ud800")
    'a\\tb\\\\x00c\\\\u202ed\\\\ud800'
    """
    cut = text[:characters]
    spelled = "".join(_spelled(character) if unicodedata.category(character) in INVISIBLE and character not in "\n\t"
                      else character for character in cut)
    return spelled + (f"\n... and {len(text) - characters:,} more characters" if len(text) > characters else "")


def side_by_side(left: str, right: str, of_left: str, of_right: str) -> str:
    """Two programs in two columns, with what only one of them has in colour.

    Lines are compared as they are (difflib.HtmlDiff also compares similar lines, in a time that a program can make endless).
    """
    lines = [_cut(shown(text).split("\n")) for text in (left, right)]
    rows = []
    for kind, begin, end, first, last in difflib.SequenceMatcher(None, *lines, autojunk=False).get_opcodes():
        marks = ("", "") if kind == "equal" else ("removed", "added")
        for pair in zip_longest(lines[0][begin:end], lines[1][first:last]):
            rows.append(f"<tr>{''.join(map(_cell, pair, marks))}</tr>")
    head = f"<tr><th>{escape(of_left)}</th><th>{escape(of_right)}</th></tr>"
    return f'<table class="diff">{head}{"".join(rows)}</table>'


def _spelled(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def _cut(lines: list[str]) -> list[str]:
    return lines if len(lines) <= TEXT_LINES else [*lines[:TEXT_LINES], f"... and {len(lines) - TEXT_LINES:,} more lines"]


def _cell(line: str | None, kind: str) -> str:
    return "<td></td>" if line is None else f'<td{f" class={kind}" if kind else ""}>{escape(line)}</td>'


def _in_turn(failures: Sequence[Failure]) -> list[int]:
    """Places of the failures: the first of every language and scenario, then the second of each."""
    turns: Counter = Counter()
    places = []
    for at, failure in enumerate(failures):
        group = (failure.language, failure.scenario)
        places.append((turns[group], at))
        turns[group] += 1
    return [at for _, at in sorted(places)]


def _item(failure: Failure, whole: str | None) -> str:
    status = failure.row["status"]
    reason = " ".join(shown(failure.row["reason"], REASON_CHARACTERS).split("\n")[0].split())
    # A status comes from a file that anyone may have written.
    head = (f'<span class="verdict v-{escape(status.replace(" ", "-"))}">{escape(status)}</span> '
            f'<b>{escape(failure.task_id)}</b> {escape(failure.scenario)} '
            f'<span class="soft">{failure.passed} of {failure.samples} passed</span> '
            f'<span class="reason">{escape(reason)}</span>')
    data = (f'data-language="{escape(failure.language)}" data-scenario="{escape(failure.scenario)}" '
            f'data-status="{escape(status)}"')
    if whole is None:
        return f'<div class="line" {data}><span class="head">{head}</span></div>\n'
    return f'<details {data}><summary class="head">{head}</summary><div>{whole}</div></details>\n'


def _whole(failure: Failure, problem: Problem | None, mode: str) -> str:
    row = failure.row
    parts = [f'<p class="soft">Sample {row["sample"]}, {row["seconds"]:g} s'
             + (f"; the most frequent of {failure.wrong} different wrong programs" if failure.wrong > 1 else "") + ".</p>",
             _block("Reason", row["reason"]), _block("Output, its end", row["output"])]
    if problem is None:
        return "".join([*parts, _block("Program", failure.program)])
    bug = (f"; bug: {escape(problem.bug_type or 'unknown')}, {escape(problem.failure_symptoms or 'unknown')}"
           if problem.buggy_solution else "")
    base = f"; base tests: {escape(row['base'])}" if row.get("base") else ""
    parts.insert(0, f'<p class="soft">{escape(shown(problem.signature, REASON_CHARACTERS))}{bug}{base}</p>')
    base = scenarios.task(problem, failure.scenario, failure.language, mode=mode).base
    if failure.scenario.startswith("fix"):
        parts += ["<h3>What it changed</h3>",
                  side_by_side(base + problem.buggy_solution, failure.program, "buggy", "generated")]
    parts += ["<h3>What would have been right</h3>",
              side_by_side(failure.program, base + problem.canonical_solution, "generated", "canonical")]
    return "".join(parts)


def _block(title: str, text: str) -> str:
    return f"<h3>{escape(title)}</h3><pre>{escape(shown(text))}</pre>" if text.strip() else ""


def _filter(failures: Sequence[Failure]) -> str:
    """Controls that the script makes visible; without it everything is listed."""
    def choice(name: str, title: str, values: Iterable[str]) -> str:
        options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in dict.fromkeys(values))
        return f'<select name="{name}" aria-label="{title}"><option value="">every {title}</option>{options}</select>'

    return ('<form id="filter" hidden>' + choice("language", "language", (each.language for each in failures))
            + choice("scenario", "scenario", (each.scenario for each in failures))
            + choice("status", "verdict", (each.row["status"] for each in failures))
            + '<input name="text" type="search" placeholder="task id or words of the reason" aria-label="words">'
            '<output class="soft"></output></form>')

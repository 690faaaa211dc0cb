"""A run as one HTML page: scores, plots, failures with their diffs. Nothing is loaded and, without scripts, nothing missing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape

from megatron_ft import __version__
from megatron_ft.evaluation import page_failures, tables
from megatron_ft.evaluation.benchmark import LANGUAGES, Problem
from megatron_ft.evaluation.page_plots import Series, bars, curves, dots
from megatron_ft.evaluation.page_style import CSS, SCRIPT
from megatron_ft.evaluation.passk import shown
from megatron_ft.evaluation.run_folder import Key
from megatron_ft.evaluation.scenarios import ROWS, TITLES
from megatron_ft.evaluation.verdict import STATUSES

ORDER = list(LANGUAGES)


def page(summary: Mapping, samples: Mapping[Key, Mapping], results: Mapping[Key, Mapping],
         problems: Mapping[str, Problem]) -> str:
    """The whole page. It says the same for the same run, whenever it is made.

    Args:
        problems: by task id; where one is missing its failures are shown without the solutions.
    """
    settings = summary["settings"]
    title = settings["model"] or settings["generations"] or f"{settings['solutions']} solutions"
    shard = f", shard {settings['shard']} only" if settings["shard"] else ""
    failures = page_failures.find(samples, results)
    body = [f"<h1>{_text(title)}</h1>",
            f'<p class="soft">{_text(tables.about(summary))}, {escape(settings["mode"])} mode{escape(shard)}. '
            f"{_text(tables.how(settings))} Intervals are 95%, by bootstrap over problems. "
            f"megatron_ft {escape(__version__)}</p>",
            _section("Scores", _scores(summary)),
            _section("Plots", f'<div class="charts">{"".join(_plots(summary))}</div>'),
            _section(f"Problems with wrong answers: {len(failures):,}",
                     page_failures.section(failures, problems, settings["mode"])),
            _section("Settings and versions", _facts(summary))]
    # The hashes let this style and this script run and nothing else: no text of a program can become code or a request.
    policy = (f"default-src 'none'; style-src '{_hash(CSS)}'; script-src '{_hash(SCRIPT)}'; base-uri 'none'; "
              "form-action 'none'")
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
            f"<title>{_text(title)}</title><style>{CSS}</style></head>\n<body>{''.join(body)}<script>{SCRIPT}</script></body></html>\n")


def _scores(summary: Mapping) -> str:
    """The table: of each scenario a row for each language, then their mean."""
    rows = _by_scenario(summary["scores"])
    ks = sorted({k for row in rows for k in shown(len(row["pass@k"]))})
    head = ["scenario", "language", "problems", "samples", *(f"pass@{k}" for k in ks), *STATUSES]
    lines = []
    for scenario in dict.fromkeys(row["scenario"] for row in rows):
        title = escape(tables.row_title(summary, scenario))
        lines += [[title, TITLES[row["language"]], str(row["problems"]), str(row["samples"]),
                   *(_percent(row, k) for k in ks), *(str(row["verdicts"][status]) for status in STATUSES)]
                  for row in rows if row["scenario"] == scenario]
        if scenario in summary["averages"]:
            mean = summary["averages"][scenario]
            lines.append([title, "<b>mean</b>", str(mean["problems"]), "", *(_percent(mean, k) for k in ks),
                          *([""] * len(STATUSES))])
    return _table(head, lines, words=2)


def _by_scenario(scores: Sequence[Mapping]) -> list[Mapping]:
    return sorted(scores, key=lambda row: (ROWS.index(row["scenario"]), ORDER.index(row["language"])))


def _plots(summary: Mapping) -> list[str]:
    scores, drawn = _by_scenario(summary["scores"]), []
    titles = {row["scenario"]: tables.row_title(summary, row["scenario"]) for row in scores}
    for scenario, title in titles.items():
        rows = [row for row in scores if row["scenario"] == scenario]
        if any(len(row["pass@k"]) > 1 for row in rows):
            drawn.append(curves(f"pass@k: {title}", [_curve(row) for row in rows]))
        else:
            drawn.append(dots(f"pass@1: {title}", [TITLES[row["language"]] for row in rows], [_single(row) for row in rows]))
    drawn.append(bars("Verdicts", {f"{titles[row['scenario']]}, {TITLES[row['language']]}": row["verdicts"] for row in scores}))
    for scenario, title in titles.items():
        rows = [row for row in scores if row["scenario"] == scenario]
        types = sorted({name for row in rows for name in row["bug_types"]})
        if types:
            drawn.append(dots(f"pass@1 by type of bug: {title}", types, [_by_bug(row) for row in rows]))
    return drawn if scores else ['<p class="soft">No program was executed.</p>']


def _curve(row: Mapping) -> Series:
    return Series(TITLES[row["language"]], ORDER.index(row["language"]), {int(k): value for k, value in row["pass@k"].items()},
                  {int(k): ends for k, ends in row["interval"].items()})


def _single(row: Mapping) -> Series:
    name = TITLES[row["language"]]
    return Series(name, ORDER.index(row["language"]), {name: row["pass@k"]["1"]}, {name: row["interval"]["1"]})


def _by_bug(row: Mapping) -> Series:
    return Series(TITLES[row["language"]], ORDER.index(row["language"]),
                  {name: each["pass@k"]["1"] for name, each in row["bug_types"].items()},
                  {name: each["interval"]["1"] for name, each in row["bug_types"].items()})


def _facts(summary: Mapping) -> str:
    facts = {**{name.replace("_", " "): value for name, value in summary["settings"].items() if value not in ("", None)},
             **{f"benchmark, {name}": f"{each['path']} (sha256 {each['sha256']})"
                for name, each in summary["benchmark"].items()},
             **{f"toolchain, {name}": ", ".join(f"{tool} {version}" for tool, version in each.items())
                for name, each in summary["toolchains"].items()},
             "sandbox": summary["sandbox"].get("described", ""), "distinct programs": summary["distinct_programs"],
             **{f"generation, {name.replace('_', ' ')}": value for name, value in (summary["generation"] or {}).items()},
             "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items())}
    return _table([], [[escape(name), _text(str(value))] for name, value in facts.items()], words=2)


def _percent(figures: Mapping, k: int) -> str:
    if str(k) not in figures["pass@k"]:
        return ""
    ends = tables.interval(figures["interval"][str(k)])
    return f"{100 * figures['pass@k'][str(k)]:.1f}{f' <small>({ends})</small>' if ends else ''}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> str:
    """A table of cells that are HTML already; all but the first `words` columns hold numbers."""
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f'<{tag}{"" if at < words else " class=number"}>{cell}</{tag}>' for at, cell in enumerate(row))

    top = f"<tr>{cells('th', [escape(name) for name in head])}</tr>" if head else ""
    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class=scroll><table>{top}{lines}</table></div>"


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{body}\n"


def _text(text: str) -> str:
    return escape(page_failures.shown(text))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

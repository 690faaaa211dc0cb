"""A run's scores as Markdown: the table that papers print, and what is behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from megatron_ft.evaluation.passk import shown
from megatron_ft.evaluation.problem import KINDS, LANGUAGES, PACK, Kind
from megatron_ft.evaluation.scenarios import ROWS, TITLES


def markdown(summary: Mapping) -> str:
    """summary.md."""
    settings = summary["settings"]
    who = settings["model"] or settings["generations"] or f"{settings['solutions']} solutions"
    shard = f", shard {settings['shard']} only" if settings["shard"] else ""
    parts = [f"# {text(who)}: {about(summary)}, {settings['mode']} mode{shard}\n", f"{how(settings)}\n",
             "pass@1 in %, with its 95% interval (bootstrap over problems):\n", overview(summary)]
    for row in summary["scores"]:
        parts += [f"\n## {row_title(summary, row['scenario'])}, {TITLES[row['language']]}\n",
                  f"{row['problems']} problems, {row['samples']} samples: "
                  + ", ".join(f"{number} {status}" for status, number in row["verdicts"].items() if number) + ".\n",
                  table(["", "problems", *(f"pass@{k}" for k in shown(len(row["pass@k"])))], _by_bug(row))]
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    tools = ", ".join(f"{name} {version}" for found in summary["toolchains"].values() for name, version in found.items())
    box = summary["sandbox"].get("described", "none")
    parts.append(f"\nVersions: {versions}. Toolchains: {tools or 'none'}. Sandbox: {box}.\n")
    return "\n".join(parts)


def overview(summary: Mapping) -> str:
    """Scenarios down, languages across."""
    scores = {(row["language"], row["scenario"]): row for row in summary["scores"]}
    languages = [name for name in LANGUAGES if any(language == name for language, _ in scores)]
    averages = summary["averages"]
    rows = []
    for scenario in (name for name in ROWS if any(each == name for _, each in scores)):
        cells = [_percent(scores[language, scenario]) if (language, scenario) in scores else "" for language in languages]
        mean = [_percent(averages[scenario]) if scenario in averages else ""] if averages else []
        rows.append([row_title(summary, scenario), *cells, *mean])
    return table(["pass@1", *(TITLES[name] for name in languages), *(["mean"] if averages else [])], rows)


def kind_of(summary: Mapping) -> Kind:
    """The benchmark of a run; one that does not say it is of a time when there was one."""
    return KINDS[next(iter(summary["benchmark"].values()), {}).get("kind", PACK)]


def about(summary: Mapping) -> str:
    """The benchmark's name, and what of it was asked if that is not all of the file."""
    note = next(iter(summary["benchmark"].values()), {}).get("note", "")
    return kind_of(summary).title + (f" ({note})" if note else "")


def row_title(summary: Mapping, scenario: str) -> str:
    """What people call a row of scores: a scenario, or the benchmark that has only one."""
    kind = kind_of(summary)
    return scenario if kind.name == PACK else kind.scored_by(scenario)


def how(settings: Mapping) -> str:
    """How the answers were made, in a sentence."""
    if settings["solutions"]:
        return f"The benchmark's own {settings['solutions']} solutions."
    many = f"{settings['samples']} sample{'s' if settings['samples'] > 1 else ''} per problem"
    if settings["generations"]:
        return f"{many}, generated elsewhere."
    chosen = (f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}, seed {settings['seed']}"
              if settings["temperature"] else "greedy")
    return f"{many}, {chosen}, at most {settings['max_new_tokens']} tokens, prompt style {settings['prompt_style']}."


def interval(ends: Sequence[float] | None) -> str:
    """An interval as percent.

    >>> interval([0.5, 0.6251]), interval(None)
    ('50.0 to 62.5', '')
    """
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def text(value: str) -> str:
    """A text that Markdown takes for text."""
    for mark in "\\`*_{}[]<>|#":
        value = value.replace(mark, f"\\{mark}")
    return " ".join(value.split())


def _by_bug(row: Mapping) -> list[list[str]]:
    ks = shown(len(row["pass@k"]))
    named = [("all", row), *((text(name), each) for name, each in row["bug_types"].items())]
    return [[name, str(each["problems"]), *(_percent(each, k) for k in ks)] for name, each in named]


def _percent(figures: Mapping, k: int = 1) -> str:
    if str(k) not in figures["pass@k"]:
        return ""
    ends = interval(figures["interval"][str(k)])
    return f"{100 * figures['pass@k'][str(k)]:.1f}{f' ({ends})' if ends else ''}"

"""Writes the list of hostile programs: `python -m tests.evaluation.hostile > docs/hostile-programs.md`."""

from __future__ import annotations

import sys

from tests.evaluation.hostile.kinds import COMPILING, OTHERS, REACH, RESOURCES, VERDICT
from tests.evaluation.hostile.tables import PROGRAMS

PARTS = {"To take what the machine has": RESOURCES, "To outlive its run or meddle with other processes": OTHERS,
         "To reach out of its box": REACH, "To get a verdict that it does not deserve": VERDICT,
         "To use the compiler": COMPILING}
HEAD = """# Hostile programs

{programs} programs, {kinds} kinds of attack in six languages, judged by the evaluator's tests as root and as an ordinary
user, in boxes by bubblewrap; those of python and Rust for which the kind of box matters also in boxes by `unshare`. None
passes, none outlives its run, none leaves a file, a change, shared memory or a connection outside of its box, and right
programs pass afterwards. Without a box, those that can do no harm are run too, and succeed. Their texts are in
`tests/evaluation/hostile/programs/`; `python -m tests.evaluation.hostile` writes this page.
"""


def page() -> str:
    """The list as Markdown."""
    lines = [HEAD.format(programs=sum(len(each.kinds) for each in PROGRAMS.values()), kinds=sum(map(len, PARTS.values())))]
    for title, kinds in PARTS.items():
        lines += [f"## {title}", "", "| a program | its verdict may be | not tried in |", "|---|---|---|"]
        for kind in kinds:
            able = [each for each in PROGRAMS.values() if kind not in each.absent]
            allowed = sorted(set().union(*(each.allowed(kind) for each in able)))
            absent = [each.name for each in PROGRAMS.values() if each not in able]
            lines.append(f"| {kind} | {', '.join(allowed)} | {', '.join(absent)} |")
        lines.append("")
    lines += ["## Why some are not tried", ""]
    for each in PROGRAMS.values():
        for reason in dict.fromkeys(each.absent.values()):
            kinds = [kind for kind in each.absent if each.absent[kind] == reason]
            lines.append(f"- {each.name}, {', '.join(f'`{kind}`' for kind in kinds)}: {reason}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

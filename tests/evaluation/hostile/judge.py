"""Judges the hostile programs of one language and says what came of it, as JSON: `python -m ... LANGUAGE TOOL [KIND...]`.

TOOL may be `none`: what programs can do without a box shows what the boxes hold.

As whoever runs it, with what `world.py` puts around it.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from megatron_ft.evaluation import languages, sandbox
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.compiled import Compiled
from megatron_ft.evaluation.sandbox import Sandbox
from tests.evaluation.hostile.kinds import COMPILING, ERROR, TIMEOUT
from tests.evaluation.hostile.outside import Outside, gone
from tests.evaluation.hostile.tables import PROGRAMS, Programs
from tests.evaluation.hostile.together import WORKERS, limited

CUT = 3900  # characters of output: then its beginning, which says that it was tried, is cut off
SAMPLE = 8  # after so many hostile programs comes a right one
MEMORY_BYTES = {"java": 2**30, "go": 2**30}
SHORT_CPU_S = {"java": 2}
NOTHING = "nothing"
"""In place of kinds: what the language needs once is built, and a right and a wrong program are judged."""
UNBOXED = Sandbox("none", as_root=False, locked=False)
TWICE = "leaves something for the next program"


class Judges:
    """Three judges of a language that share what they build: one with time, one that hurries, one whose compiler does."""

    def __init__(self, name: str, box: Sandbox) -> None:
        kind = languages.get(name)
        limits = replace(kind.default_limits, cpu_s=10, wall_s=120, memory_bytes=MEMORY_BYTES.get(name, 512 * 2**20),
                         output_bytes=2**20)
        self.patient = kind(box, limits)
        self.hurried = limited(self.patient, cpu_s=SHORT_CPU_S.get(name, 1), wall_s=4 + SHORT_CPU_S.get(name, 0))
        self.compiling = limited(self.patient)
        if isinstance(self.compiling, Compiled):
            self.compiling.build_limits = replace(kind.build_limits, cpu_s=min(3, kind.build_limits.cpu_s), wall_s=20)
            if name == "java":
                self.compiling.build_limits = replace(kind.build_limits, wall_s=8)
                self.compiling._compilers = {}

    def of(self, programs: Programs, kind: str) -> Language:
        """Who judges a kind."""
        if kind in COMPILING:
            return self.compiling
        return self.hurried if TIMEOUT in programs.allowed(kind) else self.patient


def judge(judges: Judges, programs: Programs, kind: str, outside: Outside, marker: str) -> dict:
    """What came of one program."""
    text = programs.text(kind, {**outside.words, "MARKER": f"{marker}-{programs.kinds.index(kind)}"})
    for _ in range(2 if kind == TWICE else 1):
        verdict = judges.of(programs, kind).judge(programs.problem, programs.base, text)
    said = verdict.output + verdict.reason
    return {"status": verdict.status, "reason": verdict.reason, "output": verdict.output[-1000:],
            "alive": gone(f"{marker}-{programs.kinds.index(kind)}"), "leaked": outside.secret in said,
            "tried": "tried" in said or len(verdict.output) > CUT or kind in COMPILING or verdict.status == ERROR}


def some(judges: Judges, programs: Programs, outside: Outside, marker: str, kinds: list[str]) -> tuple[dict, dict]:
    """What came of some programs, and of a right one afterwards."""
    told = {kind: judge(judges, programs, kind, outside, marker) for kind in kinds}
    after = judges.patient.judge(programs.problem, programs.base, programs.right)
    return told, {"after": kinds, "status": after.status, "reason": after.reason}


def main() -> None:
    """Judge, look around, print."""
    name, tool, *only = sys.argv[1:]
    programs, outside, marker = PROGRAMS[name], Outside(Path.cwd().parent), secrets.token_hex(8)
    box = UNBOXED if tool == UNBOXED.tool else sandbox.find(tools=(tool,))
    toolchain = Judges(name, box).patient.check()  # builds what a language needs once
    gc.collect()
    outside.look_again()
    judges = Judges(name, box)
    kinds = [kind for kind in programs.kinds if not only or kind in only]
    # One after the other through the table, so that those that wait for the clock come to different workers.
    parts = [kinds[at::-(-len(kinds) // SAMPLE)] for at in range(-(-len(kinds) // SAMPLE))] if only != [NOTHING] else []
    with ThreadPoolExecutor(WORKERS) as pool:
        done = list(pool.map(functools.partial(some, judges, programs, outside, marker), parts))
    del judges
    gc.collect()
    told = {"user": os.getuid(), "toolchain": toolchain, "right": [after for _, after in done],
            "verdicts": {kind: each for verdicts, _ in done for kind, each in verdicts.items()},
            "alive": gone() if outside.is_alone else [], "left": outside.left(marker)}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()

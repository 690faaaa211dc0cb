"""The hostile programs of every language: `programs/LANGUAGE.txt`, and those that are too long or too strange for a text.

A part of a text begins with a line `== WHAT: KIND`:

    frame     makes a program of an attack, which stands for @ATTACK@. It says `tried` and then tries, and is right only if the
              attack worked, so that a pass is a break-out.
    attack    statements that return true where they worked
    program   a whole program, which is wrong
    absent    why no program of this language can try it

Words stand for what an attacked machine has: @HOME@ a folder with a file `secret`, @KEPT@ a file in the folder @FOLDER@ that
anybody may change, @REPOSITORY@ this project, @PORT@ a server, @SOCKET@ the name of an abstract socket, @MARKER@ a word that is
this program's alone, @PAUSE_MS@ how long one that leaves an orphan goes on itself.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from megatron_ft.evaluation.benchmark import Problem
from tests.evaluation import cpp_problems, go_problems, java_problems, js_problems, rust_problems
from tests.evaluation.hostile.kinds import ERROR, FAILED, KINDS, REFUSED, TIMEOUT
from tests.evaluation.problems import make_problem

FOLDER = Path(__file__).parent / "programs"
PART = re.compile(r"^== (\w+)(?:: (.*))?\n", re.MULTILINE)
LONG = 2**20 + 1
JAVA = "class Solution { int twice(int x) { return %s; } }"


@dataclass(frozen=True)
class Programs:
    """The hostile programs of one language."""

    name: str
    problem: Problem
    base: str
    right: str
    """A program that passes."""
    generated: Mapping[str, str]
    """Whole programs beside those of the text."""
    statuses: Mapping[str, set[str]] = field(default_factory=dict)
    """Of kinds whose verdicts are others in this language."""

    def __post_init__(self) -> None:
        told = [kind for _, kind in self._parts if kind] + list(self.generated)
        wrong = {kind for kind in told if told.count(kind) > 1 or kind not in KINDS} | (KINDS.keys() - set(told))
        if wrong:
            raise ValueError(f"{self.name}: these kinds are unknown, missing or there twice: {', '.join(sorted(wrong))}")

    @property
    def kinds(self) -> list[str]:
        """What its programs try, in the order of the table."""
        return [kind for kind in KINDS if ("absent", kind) not in self._parts]

    @property
    def absent(self) -> dict[str, str]:
        """Kind -> why no program can try it."""
        return {kind: text.strip() for (what, kind), text in self._parts.items() if what == "absent"}

    def allowed(self, kind: str) -> set[str]:
        """The statuses that the verdict on a kind may have."""
        return self.statuses.get(kind, KINDS[kind])

    def text(self, kind: str, words: Mapping[str, str]) -> str:
        """The program of a kind, with what the attacked machine has filled in."""
        if kind in self.generated:
            return self.generated[kind]
        text = self._parts.get(("program", kind)) or self._framed(self._parts["attack", kind])
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        return text

    def _framed(self, attack: str) -> str:
        frame = self._parts["frame", ""]
        indent = re.search(r"^( *)@ATTACK@", frame, re.MULTILINE)[1] if self.name == "python" else ""
        return frame.replace(f"{indent}@ATTACK@", textwrap.indent(attack, indent))

    @cached_property
    def _parts(self) -> dict[tuple[str, str], str]:
        words = PART.split((FOLDER / f"{self.name}.txt").read_text())[1:]
        parts = [(what, kind or "") for what, kind in zip(words[::3], words[1::3], strict=True)]
        twice = {part for part in parts if parts.count(part) > 1}
        if twice:
            raise ValueError(f"{self.name}.txt: there twice: {twice}")
        return dict(zip(parts, words[2::3], strict=True))


PYTHON = Programs(
    "python", make_problem(), "", "def double(x):\n    return x * 2\n", {
        "is nested too deep": "x = " + "(" * 100000 + ")" * 100000,
        "takes memory when compiled": "x = " * 250_000 + "5",
        "is no text": "def double(x):\n    return 4\0",
        "is longer than a program": "#" * LONG,
    }, {"takes memory when compiled": {FAILED, ERROR, REFUSED}})
JS = Programs(
    "js", js_problems.js_problem(), js_problems.BASE, "const double = (x) => x + x", {
        "is nested too deep": "x = " + "(" * 20000 + ")" * 20000,
        "takes memory when compiled": "const double = (x) => 5, a = [" + "[0]," * 200_000 + "], b = 'x'.repeat(2 ** 31)",
        "is no text": "const double = (x) => x + x\0",
        "is longer than a program": "/" * LONG,
    }, {"takes memory when compiled": {FAILED, REFUSED}})
JAVA_CONSTANTS = (f'class Solution {{ static final String A = "{"a" * 60000}", B = A + A + A + A, C = B + B + B + B,'
                  " D = C + C + C + C, E = D + D + D + D, F = E + E + E + E, G = F + F + F + F, H = G + G + G + G;"
                  " int twice(int x) { return H.length(); } }")
JAVA_PROGRAMS = Programs(
    "java", java_problems.PROBLEM, java_problems.TWICE, JAVA % "x * 2", {
        "takes memory when compiled": JAVA_CONSTANTS,
        "is too large when built": "class Solution { int[] room = {" + "1," * 30000 + "}; int twice(int x) { return 5; } }",
        "is nested too deep": JAVA % ("(" * 9000 + "5" + ")" * 9000),
        "is no text": JAVA % 4 + "\0 \udc80 )",
        "is longer than a program": JAVA % 4 + "//" + "#" * LONG,
    }, {"stops itself": {TIMEOUT, FAILED},
        "replaces what it is built of": {FAILED, REFUSED, ERROR},
        "takes memory when compiled": {ERROR, FAILED, TIMEOUT},
        "is nested too deep": {ERROR, FAILED}})
GO = Programs(
    "go", go_problems.PROBLEM, go_problems.DOUBLE, go_problems.DOUBLE + "return x * 2\n}", {
        "is nested too deep": go_problems.DOUBLE + "return " + "(" * 200_000 + "4" + ")" * 200_000 + "}",
        "is no text": go_problems.DOUBLE + "return 4 } // \0",
        "is longer than a program": "//" + "#" * LONG,
    }, {"patches what asserts": {FAILED, ERROR},
        "replaces what it is built of": {FAILED, REFUSED, ERROR},
        "equals everything": {FAILED, REFUSED, ERROR},
        "takes over its runner": {FAILED, ERROR},
        "compiles without end": {ERROR, TIMEOUT, REFUSED},
        "is too large when built": {ERROR, REFUSED, FAILED}})
CPP = Programs(
    "cpp", cpp_problems.DOUBLE, "", cpp_problems.RIGHT, {
        "is nested too deep": "int x = " + "(" * 20000,
        "is no text": "int twice(int x){ return 4; }\0\udc80 )",
        "is longer than a program": "/" * LONG,
        "defines nothing": "",
    }, {"replaces what it is built of": {FAILED, REFUSED, ERROR}, "equals everything": {FAILED, ERROR}})
RUST = Programs(
    "rust", rust_problems.TWICE, "", rust_problems.RIGHT, {
        "is nested too deep": "const X: i32 = " + "(" * 20000,
        "is no text": rust_problems.RIGHT + "\0",
        "is longer than a program": "/" * LONG,
        "defines nothing": "",
    }, {"equals everything": {ERROR}, "replaces what it is built of": {FAILED, REFUSED, ERROR}})
PROGRAMS = {programs.name: programs for programs in (PYTHON, JS, JAVA_PROGRAMS, GO, CPP, RUST)}

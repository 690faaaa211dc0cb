"""The rules of the public harness of HumanEvalPack, faults included: `compat` numbers compare with papers.

Written from the behaviour of bigcode-evaluation-harness (bigcode_eval/tasks/humanevalpack.py) and of the metric that it
loads (Muennighoff/code_eval_octopack). `fixed` mode does not use this file; docs/evaluation.md has the problems on which
the two differ.
"""

from __future__ import annotations

import re

from megatron_ft.evaluation.scenarios import DESCRIBED, Task, described

STOPS = {"python": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\nassert"),
         "go": ("\n//", "\nfunc main(", "struct", "\nfunc")}
END_OF_TEXT = "<|endoftext|>"
STYLE_STOPS = {"commit": ("<commit_before>", "<commit_msg>", "<commit_after>"), "starchat": ("<|end|>",)}
OPEN = {"java": 2}  # braces that base leaves open, if not 1
PYTHON_IMPORTS = ("import math", "import re", "import sys", "import copy", "import datetime", "import itertools",
                  "import collections", "import heapq", "import statistics", "import functools", "import hashlib",
                  "import numpy", "import numpy as np", "import string", "from typing import *", "from collections import *")
CPP_HEADERS = ("using namespace std;", *(f"#include<{name}>" for name in (
    "stdlib.h", "algorithm", "cmath", "math.h", "numeric", "stdio.h", "vector", "set", "map", "queue", "stack", "list", "deque",
    "boost/any.hpp", "string", "climits", "cstring", "iostream", "sstream", "fstream")))
GO_PACKAGES = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5")
JAVA_MAIN = "public class Main {\n    }"


def stops(language: str, style: str = "") -> tuple[str, ...]:
    """Strings that end an answer wherever they stand in it."""
    return (*STOPS.get(language, ()), *STYLE_STOPS.get(style, ()), END_OF_TEXT)


def is_complete(language: str, answer: str, style: str = "") -> bool:
    """Whether the harness stops generating here."""
    if any(stop in answer for stop in stops(language, style)):
        return True
    if language == "python":
        return any(_at_margin(line) for line in answer.split("\n"))
    return answer.count("{") + OPEN.get(language, 1) == answer.count("}")


def cut(language: str, answer: str, style: str = "") -> str:
    r"""An answer up to where the harness takes the function to end.

    >>> cut("js", "\n  return {a: 1};\n}\n\nf()")
    '\n  return {a: 1};\n}'
    >>> cut("python", "\n    return 1\nprint(1)")
    '\n    return 1'
    """
    for stop in stops(language, style):
        answer = answer.partition(stop)[0]
    if language == "python":
        lines = answer.split("\n")
        end = next((at for at, line in enumerate(lines) if _at_margin(line)), len(lines))
        return "\n".join(lines[:end])
    depth = OPEN.get(language, 1)
    for at, character in enumerate(answer):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return answer[:at + 1]
    return _cut_unclosed(language, answer)


def program(asked: Task, answer: str, style: str = "") -> str:
    """The program of an answer. Of a repair it begins with the base, of everything else with the docstring."""
    begun = asked.base if asked.scenario.startswith("fix") else asked.problem.prompt
    return begun.rstrip() + cut(asked.language, answer.rstrip(), style)


def description(asked: Task, answer: str, style: str = "") -> str:
    """What is handed on of a description: as `described`, but cut where the language's stop strings appear."""
    text = answer.strip()[:len(asked.problem.docstring)]
    for stop in stops(asked.language, style):
        text = text.partition(stop)[0]
    return described(asked.problem, text)


def source(asked: Task, program: str) -> str:
    """The one file that the harness executes: a program and the tests of its problem."""
    assert asked.scenario != DESCRIBED
    made = {"python": _python, "cpp": _cpp, "java": _java, "go": _go, "rust": _rust}.get(asked.language)
    return f"{made(asked, program) if made else program}\n\n{asked.problem.test}"


def _python(asked: Task, program: str) -> str:
    return "\n".join((*PYTHON_IMPORTS, program)).strip()


def _cpp(asked: Task, program: str) -> str:
    return "\n".join((*CPP_HEADERS, program.partition("int main")[0])).strip()


def _java(asked: Task, program: str) -> str:
    return program.replace(JAVA_MAIN, "").strip()


def _go(asked: Task, program: str) -> str:
    """The test file's head, less what the program imports too; then what program and tests use and nobody imports."""
    setup = asked.problem.test_setup + "\n"
    for line in setup.split("\n"):
        name = re.sub(r"import|[()]", "", line).strip()
        if name.startswith('"') and name in program:
            setup = setup.replace(name, "")
    whole = f"{setup}{program}\n\n{asked.problem.test}"
    # The last part of a path is what the harness adds: "crypto/md5" as "md5", which does not exist.
    missing = sorted({f'    "{name.rpartition("/")[2]}"' for name in GO_PACKAGES
                      if f'"{name}"' not in whole and _is_used(whole, name.rpartition("/")[2])})
    added = "import (\n" + "\n".join(missing) + "\n)\n" if missing else ""
    if "package main" in program and "package main" in setup:
        program = program.replace("package main", "")
    return setup + added + program


def _is_used(text: str, package: str) -> bool:
    return any(f"{package}." in line and not line.strip().startswith("//") for line in text.split("\n"))


def _rust(asked: Task, program: str) -> str:
    """Lines of the declaration that the program lacks come first; a second `fn main()` ends the program."""
    head = "" if "fn main()" in program else "fn main(){}\n"
    for line in map(str.strip, asked.problem.declaration.split("\n")):
        if line in program or (line.startswith("fn") and line.partition("(")[0] in program):
            continue
        head += line + "\n"
    return head + "fn main()".join(program.split("fn main()")[:2])


def _cut_unclosed(language: str, answer: str) -> str:
    if language == "java":
        before, main, _ = answer.partition("public static void main")
        if main:
            answer = before + "}"
        if "}" in answer:
            answer = answer[:answer.rindex("}")] + "}"
        return answer + "\n}" if answer.count("{") - 1 == answer.count("}") else answer
    return answer[:answer.rindex("}")] + "}" if "}" in answer else answer


def _at_margin(line: str) -> bool:
    return bool(line.strip()) and line[0] not in " \t"

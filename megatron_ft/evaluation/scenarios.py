"""What a model is asked in each scenario, and how its answer begins; all benchmarks but HumanEvalPack have one scenario."""

from __future__ import annotations

import re
from dataclasses import dataclass

from megatron_ft.errors import ConfigError
from megatron_ft.evaluation.problem import BASE, PACK, Problem

SCENARIOS = ("synthesize", "fixtests", "fixdocs", "explaindescribe", "explainsynthesize")
ABOUT = {"synthesize": "a function from its docstring", "fixtests": "the repair of a function, given its tests",
         "fixdocs": "the repair of a function, given its docstring", "explaindescribe": "a description of a function",
         "explainsynthesize": "a function from the model's own description of it"}
DESCRIBED = "explaindescribe"
ONLY = "synthesize"
"""The scenario of benchmarks that have no others."""
ROWS = (BASE, *SCENARIOS)
"""Of tables."""
TITLES = {"python": "Python", "js": "JavaScript", "java": "Java", "go": "Go", "cpp": "C++", "rust": "Rust"}
LONG_LINE = 20  # characters of a solution's line that a description may not quote
COMMENT = {"go": re.compile(r"^[ \t]*//.*\n", re.MULTILINE), "cpp": re.compile(r"/\*.*?\*/[ \t]*\n?", re.DOTALL)}
FUNCTION = re.compile(r"^(?:func\s+|[\w:<>,\s*&]+?\s[*&]?)(\w+)\s*\([^;{}]*\)[^;{}]*\{", re.MULTILINE)


@dataclass(frozen=True)
class Task:
    """One problem in one scenario and language."""

    problem: Problem
    scenario: str
    language: str
    base: str
    """How the answer begins, which the model goes on with."""
    description: str = ""
    """What the model itself wrote about the solution; of explainsynthesize."""
    public: bool = False
    """Asked as the public harness of a benchmark with one scenario asks it."""

    @property
    def key(self) -> str:
        """What tells it apart in a run."""
        return f"{self.problem.task_id}/{self.scenario}"


def task(problem: Problem, scenario: str, language: str, *, mode: str = "fixed", description: str = "") -> Task:
    """A problem as it is asked; ConfigError for a scenario that does not exist."""
    if scenario not in SCENARIOS:
        raise ConfigError(f"--scenario: '{scenario}' is unknown; use one of {', '.join(SCENARIOS)}")
    if scenario in ("synthesize", "fixdocs"):
        return Task(problem, scenario, language, problem.prompt, public=mode == "compat" and problem.kind != PACK)
    declaration = declared(problem, language) if mode == "fixed" else problem.declaration
    if language == "rust":
        declaration = f"fn main(){{}}\n{declaration}"
    return Task(problem, scenario, language, declaration, description)


def declared(problem: Problem, language: str) -> str:
    """A problem's code before the body, without docstrings.

    Of five problems `declaration` lacks the helpers that the solution calls, or has lines of the solution in it (Go/10, 32,
    38, 50 and CPP/38): there it is `prompt` without its comments.

    >>> from tests.evaluation.problems import make_problem
    >>> begun = "func g() int {\\n}\\n// Doc.\\nfunc F(a int) int {"
    >>> declared(make_problem(declaration="func F(a int) int {", prompt=begun), "go")
    'func g() int {\\n}\\nfunc F(a int) int {'
    """
    if language not in COMMENT:
        return problem.declaration
    code = COMMENT[language].sub("", problem.prompt)
    begun = problem.declaration.count("{") - problem.declaration.count("}")
    whole = begun == 1 and set(FUNCTION.findall(code)) <= set(FUNCTION.findall(problem.declaration))
    return problem.declaration if whole else code


def instruction(asked: Task) -> tuple[str, str]:
    """The instruction, and what it is about; as in the public runs of HumanEvalPack."""
    problem = asked.problem
    if asked.scenario == "synthesize":
        return problem.instruction.strip(), ""
    if asked.scenario == DESCRIBED:
        return ("Provide a concise natural language description of the code using at most "
                f"{len(problem.docstring)} characters."), asked.base + problem.canonical_solution
    if asked.scenario == "explainsynthesize":
        return f"Write functional code in {TITLES[asked.language]} according to the description.", asked.description
    tests = f"\n{problem.test}" if asked.scenario == "fixtests" else ""
    return f"Fix bugs in {problem.entry_point}.", asked.base + problem.buggy_solution + tests


def described(problem: Problem, answer: str) -> str:
    """A description as it is handed on: no longer than the docstring, and without lines of the solution.

    >>> from tests.evaluation.problems import make_problem
    >>> described(make_problem(docstring="x" * 50, canonical_solution="    return some_long_name * 2\\n"),
    ...           " Doubles it: return some_long_name * 2, as asked for, and so on")
    'Doubles it: , as asked fo'
    """
    text = answer.strip()[:len(problem.docstring)].rstrip()
    for line in problem.canonical_solution.split("\n"):
        if len(line.strip()) > LONG_LINE:
            text = text.replace(line.strip(), "")
    return text

"""The public harness's rules, as numbers of papers were made: every expected text is written out by hand."""

from __future__ import annotations

import pytest

from megatron_ft.evaluation import public_rules, scenarios
from megatron_ft.evaluation.languages.python import Python
from tests.evaluation.problems import make_problem

CUTS = {
    ("python", "\n    return x * 2\n\ndef more():\n"): "\n    return x * 2\n",
    ("python", "\n    return x * 2\n# done"): "\n    return x * 2",
    ("python", "\n    return x * 2\nx = 1\nmore"): "\n    return x * 2",
    ("python", "\n    if x:\n        return 1\n    return 2<|endoftext|>rest"): "\n    if x:\n        return 1\n    return 2",
    ("js", "\n  return {a: x};\n}\n\nconsole.log(1)"): "\n  return {a: x};\n}",
    ("js", "\n  return '}';\n}"): "\n  return '}",  # it counts braces in strings too
    ("js", "\n  return 1;"): "\n  return 1;",
    ("cpp", "\n  return 1;\n}\nint helper() { return 2; }"): "\n  return 1;\n}",
    ("go", "\n    type pair struct { a int }\n"): "\n    type pair ",
    ("go", "\n    return 1\n}\n\nfunc other() int {"): "\n    return 1\n}",
    ("java", "\n        return 1;\n    }\n    int b() { return 2; }\n}\nrest"):
        "\n        return 1;\n    }\n    int b() { return 2; }\n}",
    ("java", "\n        return 1;\n    }\n    public static void main(String[] a) { f(); }"):
        "\n        return 1;\n    }\n    }",
    ("rust", "\n    1\n}\nfn other() {}"): "\n    1\n}",
}


@pytest.mark.parametrize(("language", "answer"), CUTS)
def test_an_answer_is_cut_where_the_harness_cuts_it(language: str, answer: str) -> None:
    assert public_rules.cut(language, answer) == CUTS[language, answer]


@pytest.mark.parametrize(("language", "answer", "complete"), [
    ("python", "\n    return 1", False), ("python", "\n    return 1\nx", True), ("python", " x\n#", True),
    ("js", "\n return 1 }", True), ("js", "\n if (x) { return 1 }", False), ("java", "\n } }", True), ("java", "\n }", False),
    ("go", " a struct", True), ("rust", "<|endoftext|>", True),
])
def test_generation_stops_where_the_harness_stops_it(language: str, answer: str, complete: bool) -> None:
    assert public_rules.is_complete(language, answer) is complete


def asked(scenario: str, language: str, **changed: str) -> scenarios.Task:
    return scenarios.task(make_problem(**changed), scenario, language, mode="compat")


def test_a_repair_begins_with_its_base_and_anything_else_with_the_docstring() -> None:
    answer = "\n    return x * 2\nprint(double(1))"
    repaired = public_rules.program(asked("fixtests", "python"), answer)
    assert repaired == "def double(x):\n    return x * 2"
    explained = public_rules.program(asked("explainsynthesize", "python"), answer)
    assert explained == 'def double(x):\n    """Twice x."""\n    return x * 2'


def test_a_description_is_cut_at_stop_strings_too() -> None:
    problem = {"docstring": "x" * 60, "canonical_solution": "\treturn append(numbers, 2*x)\n"}
    told = " It fills a struct\nfunc with return append(numbers, 2*x)"
    assert public_rules.description(asked("explaindescribe", "go", **problem), told) == "It fills a"
    assert scenarios.described(make_problem(**problem), told) == "It fills a struct\nfunc with "


def test_a_python_file_has_the_harness_s_imports() -> None:
    made = public_rules.source(asked("synthesize", "python"), "def double(x):\n    return x * 2")
    assert made.startswith("import math\nimport re\nimport sys\nimport copy\n")
    assert "from collections import *\ndef double(x):\n    return x * 2\n\ndef check(double):" in made


def test_a_cpp_file_has_the_harness_s_headers_and_ends_at_a_main() -> None:
    made = public_rules.source(asked("synthesize", "cpp", test="int main(){}"), "int f() { return 1; }\nint main() { f(); }")
    assert made.startswith("using namespace std;\n#include<stdlib.h>\n#include<algorithm>\n#include<cmath>\n")
    assert made.endswith("#include<fstream>\nint f() { return 1; }\n\nint main(){}")


SETUP = 'package main\n\nimport (\n    "testing"\n    "math"\n    "github.com/stretchr/testify/assert"\n)\n'


def test_a_go_file_imports_what_it_uses_and_nobody_imports() -> None:
    program = '// strings.Join is not used\nfunc F(s string) string {\n    return fmt.Sprint(md5.Sum(nil), strconv.Itoa(1))\n}'
    made = public_rules.source(asked("synthesize", "go", test="func TestF(t *testing.T) {}", test_setup=SETUP), program)
    assert made == (f'{SETUP}\nimport (\n    "fmt"\n    "md5"\n    "strconv"\n)\n{program}\n\nfunc TestF(t *testing.T) {{}}')
    own = 'package main\nimport (\n    "math"\n)\nfunc F() float64 { return math.Pi }'
    made = public_rules.source(asked("synthesize", "go", test="T", test_setup=SETUP), own)
    assert made == SETUP.replace('"math"', "") + "\n" + own.replace("package main", "") + "\n\nT"


def test_a_rust_file_has_one_main_and_the_declaration_s_lines() -> None:
    declaration = "\nuse regex::Regex;\nuse rand::Rng;\n\nfn f(x: i32) -> i32{\n"
    program = "fn main(){}\nuse rand::Rng;\nfn f(x: i32) -> i32 {\n    x\n}\nfn main() { f(1); }\nfn main() {}"
    made = public_rules.source(asked("synthesize", "rust", declaration=declaration, test="T"), program)
    assert made == "use regex::Regex;\nfn main(){}\nuse rand::Rng;\nfn f(x: i32) -> i32 {\n    x\n}\n\n\nT"


def test_a_java_file_loses_an_empty_main_class() -> None:
    made = public_rules.source(asked("synthesize", "java", test="T"), "class Solution {}\npublic class Main {\n    }\n")
    assert made == "class Solution {}\n\nT"


def test_python_passes_when_nothing_was_raised(python: Python) -> None:
    task = asked("synthesize", "python")
    judged = {program: python.judge_publicly(public_rules.source(task, program)) for program in (
        "def double(x):\n    return x * 2", "def double(x):\n    return x * 3", "def double(x):\n    return (",
        "import os\nos._exit(0)", "exit(0)",
        "class Same:\n    def __eq__(self, other): return True\ndouble = lambda x: Same()")}
    assert [verdict.status for verdict in judged.values()] == ["passed", "failed", "failed", "failed", "failed", "passed"]
    assert "AssertionError" in list(judged.values())[1].reason


def test_a_program_that_does_not_end_is_stopped(python: Python) -> None:
    slow = Python(python.sandbox, python.limits.__class__(cpu_s=1, wall_s=30))
    verdict = slow.judge_publicly("while True: pass")
    assert (verdict.status, verdict.reason) == ("timeout", "used more than 1 s of cpu time")

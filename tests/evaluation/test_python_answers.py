"""What is kept of a python answer, statement by statement; whole answers are in test_answers."""

from __future__ import annotations

import ast

import pytest

from megatron_ft.evaluation import benchmark
from megatron_ft.evaluation.chat_answers import cleaned, fenced, unquoted
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.languages.python_answers import assemble, is_complete
from megatron_ft.evaluation.languages.python_statements import statements

FUNCTION = "def f(x):\n    return x"

KEPT_BEFORE = [
    "import sys\nsys.setrecursionlimit(10**6)", "from sys import setrecursionlimit\nsetrecursionlimit(9999)",
    "try:\n    import numpy as np\nexcept ImportError:\n    np = None", "if True:\n    LIMIT = 5",
    "if LIMIT:\n    A = 1\nelse:\n    A = 2", "TABLE = [\n1,\n2,\n]", "TEXT = '''\nprint(1)\n'''",
    "for i in range(3):\n    TABLE.append(i)", "with open('x') as file:\n    LINES = 1", "A: int = 1", "A = B = 1", "A += 1",
    "random.seed(0)", "class Node:\n    pass", "@decorated\ndef g():\n    pass", "a, b = 1, 2", "lambda_ = lambda: 1",
    "type_: dict[str, int] = {}", "# why\nN = 1", "async def g():\n    pass",
]
DROPPED_BEFORE = [
    "print('hello')", "assert f(1) == 1", "f(1)", "input()", "n = int(input())\nprint(n)", "Sure, it is this:", "Answer",
    "\"\"\"words\"\"\"", "unittest.main()", "if __name__ == '__main__':\n    main()", "- a list\n- of words", "1. First",
    "sys.exit(1)",
]
DROPPED_BEHIND = [
    "print(f(1))", "assert f(1) == 1", "result = f(2)", "if __name__ == '__main__':\n    print(f(1))",
    "def test_f():\n    assert f(1)", "class TestF(unittest.TestCase):\n    pass", "for case in [1]:\n    f(case)",
    "import unittest", "This gives x.", "x = 5\nx = f(x)", "while True:\n    f(1)",
    "try:\n    f(None)\nexcept TypeError:\n    pass", "f(1)  # 1", "# f(1)",
]


def kept(text: str) -> list[str]:
    return [ast.unparse(node) for node in ast.parse(text).body]


@pytest.mark.parametrize("before", KEPT_BEFORE)
@pytest.mark.parametrize("form", ["{}\n\n{}\n", "Here it is:\n```python\n{}\n\n{}\n```\nDone.",
                                  "Sure, so:\n\n{}\n\n{}\n\nThat is it."])
def test_what_prepares_the_function_is_kept(before: str, form: str) -> None:
    assert kept(assemble("", form.format(before, FUNCTION), "f")) == kept(f"{before}\n{FUNCTION}")


@pytest.mark.parametrize("before", DROPPED_BEFORE)
def test_what_shows_or_tests_it_is_not_kept_before(before: str) -> None:
    found = kept(assemble("", f"{before}\n{FUNCTION}\n", "f"))
    assert found[-1:] == kept(FUNCTION)
    assert len(found) == (2 if "int(input" in before else 1)  # an assignment is one, whatever it calls


@pytest.mark.parametrize("behind", DROPPED_BEHIND)
def test_what_stands_behind_it_is_kept_only_where_it_is_used(behind: str) -> None:
    for base, text in (("", f"{FUNCTION}\n\n{behind}\n"), ("def f(x):", f"\n    return x\n\n{behind}\n")):
        assert kept(assemble(base, text, "f")) == kept(FUNCTION)


def test_what_the_function_uses_is_found_wherever_it_stands() -> None:
    used = "def f(x):\n    return g(x) + C"
    behind = "def g(x):\n    return math.floor(x)\n\nC = 1\nimport math\n"
    everything = kept(f"{used}\n{behind}")
    assert sorted(kept(assemble("", f"{used}\n\n{behind}", "f"))) == sorted(everything)
    assert sorted(kept(assemble("def f(x):", f"\n    return g(x) + C\n\n{behind}", "f"))) == sorted(everything)
    blocks = (f"```\n{used}\n```\nwith\n```\nimport math\n\ndef g(x):\n    return math.floor(x)\n```\n"
              "and\n```\nC = 1\nD = 2\n```")
    assert sorted(kept(assemble("", blocks, "f"))) == sorted(everything)


def test_locals_are_no_use_of_a_name() -> None:
    """`result` of the function is not the `result` of the example behind it."""
    text = "def f(x):\n    result = x\n    return result\n\nresult = f(None)\n"
    assert kept(assemble("", text, "f")) == kept("def f(x):\n    result = x\n    return result")


def test_imports_of_the_future_come_first() -> None:
    base = "import math\n\n\ndef f(x):\n"
    program = assemble(base, f"\n```\nfrom __future__ import annotations\n{FUNCTION}\n```", "f")
    assert kept(program) == ["from __future__ import annotations", "import math", *kept(FUNCTION)]


def test_what_cannot_be_parsed_is_taken_by_its_lines() -> None:
    """So that the compiler says what is wrong with it."""
    text = "\nIt is:\n\nimport re\n\ndef f(x):\n    return (x\n\nprint(f(1))\n"
    assert assemble("", text, "f").lstrip() == "import re\n\ndef f(x):\n    return (x\n"


def test_statements_are_all_the_lines_of_a_text() -> None:
    text = ("Words (open:\n@a\n\n@b\ndef f():\n    '''\nx\n'''\n"
            "try:\n    a\nexcept E:\n    b\nelse:\n    c\nfinally:\n    d\nx = [\n]\n)\nelse:\n")
    found = list(statements(text))
    assert "\n".join(each.text for each in found) == text
    assert [each.text.split("\n")[0] for each in found if each.nodes] == ["@a", "try:", "x = ["]


@pytest.mark.parametrize("text", [
    "(\n" * 2000, "f(" * 5000, "```\n" * 3000, "def f(x):\n" * 2000, "@a\n" * 3000, "if a:\n" * 500, "'''\n" * 999, "-" * 50000,
    "a" + ".b" * 20000, "\n    x = 1" * 2000, "# a\n" * 3000, "x = 1\n" * 1500, "\0", "\ud800\n", "def f(x): pass\n" * 700,
    "    " * 3000, "<think>" * 3000, "</think>\n" * 3000, "<|im_end|>" * 3000])
def test_a_degenerate_completion_takes_little_time(text: str) -> None:
    """What models repeat without end: seconds for all of it, where trying every pair of lines would take hours."""
    for completion in (text, f"\n{text}", f"\n    return 1\n{text}", f"```python\n{FUNCTION}\n{text}"):
        assert assemble("def f(x):\n", completion, "f")
        is_complete(completion, "f")


def test_every_solution_of_humanevalpack_may_be_written_anew(humanevalpack) -> None:
    for problem in benchmark.read(humanevalpack).problems:
        whole = problem.declaration + problem.canonical_solution
        for form in ("Here:\n```python\n{}\n\nprint({})\n```\n", "\n{}\n\nassert {}\n", "Sure, it is\n\n{}\n\nprint({})\n"):
            for base in (problem.prompt, problem.declaration):
                program = Python.assemble(problem, base, form.format(whole.rstrip(), f"{problem.entry_point}(1)"))
                wanted = functions(whole)
                assert {name: text for name, text in functions(program).items() if name in wanted} == wanted, problem.task_id
                assert f"{problem.entry_point}(1)" not in program


def functions(text: str) -> dict[str, str]:
    return {node.name: ast.unparse(node) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def test_a_bug_is_not_taken_for_the_answer_that_quotes_it() -> None:
    blocks = fenced("Your:\n```\ndef f(x):\n    return  x+1\n```\nMine:\n```\ndef f(x):\n    return x + 2\n```")[1]
    assert [block.may_quote for block in blocks] == [True, False]
    assert [block.text[-2] for block in unquoted(blocks, "    return x + 1\n")] == ["2", "1"]
    assert unquoted(blocks, "") == blocks
    java = fenced("```\nclass A { int f() { return 1; } int g() { } }\n```\n```\nclass A { int f() { return 2; } }\n```")[1]
    assert unquoted(java, "    return 1;\n  }\n}\n") == java[::-1]  # a class may go on behind the method that it quotes


@pytest.mark.parametrize(("text", "expected"), [
    ("x = '</s>'\ny", "x = '</s>'\ny"), ("a\n</s>\n", "a\n"), ("x = '<|im_end|>'\n", "x = '<|im_end|>'\n"),
    ("a<|eot_id|>", "a"),
    ("a\n<|endoftext|>\nQuestion: b", "a\n"), ("<think>a</think>\nb", "\nb"), ("<think>a", ""), ("a\n</think>\nb", "\nb"),
    ("if '<think>' in x:\n    y\n", "if '<think>' in x:\n    y\n"), ("print('</think>')\n", "print('</think>')\n"),
    ("a\r\nb", "a\nb"),
])
def test_only_what_is_no_code_is_taken_off(text: str, expected: str) -> None:
    assert cleaned(text) == expected

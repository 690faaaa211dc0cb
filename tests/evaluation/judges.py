"""The judge of each language with the limits of its tests, and a small problem with programs that are judged alike in all six.

The function doubles a number. What is a language's own is in its own tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from megatron_ft.evaluation import sandbox
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.sandbox import Limits
from tests.evaluation import cpp_problems, go_problems, java_problems, js_problems, rust_problems
from tests.evaluation.conftest import sandbox_or_skip
from tests.evaluation.hostile.together import limited
from tests.evaluation.problems import make_problem

LIMITS = Limits(cpu_s=5, wall_s=60)
JUDGES: Mapping[str, Callable[[], Language]] = {
    "python": lambda: Python(sandbox_or_skip(sandbox.TOOLS[0]), LIMITS),
    "js": lambda: js_problems.toolchain_or_skip(sandbox_or_skip(sandbox.TOOLS[0])),
    "java": java_problems.java_or_skip, "go": go_problems.go_or_skip,
    "cpp": cpp_problems.cpp_or_skip, "rust": rust_problems.rust_or_skip,
}


class Programs(NamedTuple):
    """A problem, and programs for it, each with a pattern of what its verdict says."""

    problem: Problem
    right: str
    prints: str
    """Also writes "printed"."""
    wrong: tuple[str, str]
    uncompiled: tuple[str, str]
    throws: tuple[str, str]
    """With the text "no luck"."""
    leaves: str
    """With exit status 7, when it is called."""
    loops: str
    other: tuple[str, str]
    """Defines another function."""
    helper: tuple[Problem, str]
    """The problem with a helper `off` that its tests use, and a program that bends it."""
    uncompiled_tests: tuple[Problem, str]
    """The problem with tests that do not compile, and what the error says of them."""
    continued: str
    """A completion of the problem's prompt whose function calls a helper behind it, and more that is cut; C++ allows none."""


PYTHON = make_problem()
JS = js_problems.js_problem(test="console.assert(double(2) === 4)\nconsole.assert(double(21) === 42)")
JAVA = java_problems.PROBLEM
GO = go_problems.PROBLEM
CPP = cpp_problems.DOUBLE
RUST = rust_problems.TWICE
OF: Mapping[str, Programs] = {
    "python": Programs(
        PYTHON, "def double(x):\n    return x * 2\n", "def double(x):\n    print('printed')\n    return x * 2\n",
        ("def double(x):\n    return x * 3\n", r"AssertionError, at test line 2: assert double\(2\) == 4"),
        ("def double(x):\n    return x *\n", "SyntaxError"),
        ("def double(x):\n    raise ValueError('no luck')\n", "ValueError: no luck, at test line 2: assert"),
        "import os\n\ndef double(x):\n    os._exit(7)\n", "def double(x):\n    while True:\n        pass\n",
        ("def triple(x):\n    return x * 3\n", "name 'double' is not defined"),
        (make_problem(prompt="def off(x):\n    return abs(x - 4)\n\n\ndef double(x):\n", test="assert off(double(2)) == 0"),
         "def off(x):\n    return 0\n\n\ndef double(x):\n    return 5\n"),
        (make_problem(test="assert ("), "SyntaxError"),
        "\n    return by(x)\n\n\ndef by(x):\n    return x * 2\n\n\nprint(double(1))\n"),
    "js": Programs(
        JS, "const double = (x) => x * 2", "const double = (x) => { console.log('printed'); return x * 2 }",
        ("const double = (x) => x * 3", r"failed assertion, at test line 1: console.assert\(double\(2\) === 4\)"),
        ("const double = (x) => {", "SyntaxError: Unexpected end of input"),
        ("const double = (x) => { throw new RangeError('no luck') }", "RangeError: no luck, at test line 1: console.assert"),
        "const double = (x) => process.exit(7)", "const double = (x) => { for (;;) {} }",
        ("const triple = (x) => x * 3", "TypeError: double is not a function, at test line 1"),
        (js_problems.js_problem(prompt="const off = (x) => {\n  return Math.abs(x - 4)\n}\n\nconst double = (x) => {",
                                test="console.assert(off(double(2)) === 0)"), "const off = () => 0\nconst double = () => 5"),
        (js_problems.js_problem(test="console.assert("), "SyntaxError"),
        "\n  return by(x)\n}\n\nconst by = (x) => x * 2\n\nconsole.log(double(1))\n"),
    "java": Programs(
        JAVA, java_problems.TWICE + "return x * 2; } }",
        java_problems.TWICE + 'System.out.println("printed"); return x * 2; } }',
        (java_problems.TWICE + "return x * 3; } }",
         r"AssertionError, at test line 2: static void check\(boolean right\).*its last calls: twice\(2\) gave 6"),
        (java_problems.TWICE + "return y; } }", "Solution.java:6: error: cannot find symbol; symbol:   variable y"),
        (java_problems.TWICE + 'throw new IllegalStateException("no luck"); } }',
         r"IllegalStateException: no luck, at test line 5: check\(s.twice\(2\) == 4\);"),
        java_problems.TWICE + "System.exit(7); return 4; } }", java_problems.TWICE + "for (;;) {} } }",
        ("class Solution { int thrice(int x) { return x * 3; } }", "the program has no method twice"),
        (java_problems.problem_of("public int twice(int x)", "check(s.off(s.twice(2)) == 0);",
                                  helpers="    int off(int x) { return Math.abs(x - 4); }\n"),
         "class Solution { int off(int x) { return 0; } int twice(int x) { return 5; } }"),
        (java_problems.problem_of("public int f(int x)", "nothing();"), "(?s)do not compile.*cannot find symbol"),
        "\n        return by(x);\n    }\n\n    int by(int x) {\n        return x * 2;\n    }\n}\n\nIt doubles.\n"),
    "go": Programs(
        GO, go_problems.DOUBLE + "return x * 2\n}", go_problems.DOUBLE + "fmt.Println(\"printed\")\nreturn x * 2\n}",
        (go_problems.DOUBLE + "return x * 3\n}",
         r"Not equal: expected: 4 actual : 6, at test line 3: assert.Equal\(4, Double\(2\)\)"),
        (go_problems.DOUBLE + "return x *\n}", "program.go:3:1: expected operand"),
        (go_problems.DOUBLE + 'panic("no luck")\n}', r"Double panicked: no luck, at test line 3: assert.Equal"),
        go_problems.DOUBLE + "os.Exit(7)\nreturn 4\n}", go_problems.DOUBLE + "for {}\n}",
        ("func Triple(x int) int { return x * 3 }", "undefined: Double"),
        (go_problems.problem_of(go_problems.DOUBLE, "    assert.Equal(0.0, Off(Double(2)))",
                                prompt="func Off(x int) float64 { return math.Abs(float64(x - 4)) }\n\n" + go_problems.DOUBLE),
         "func Off(x int) float64 { return 0 }\n" + go_problems.DOUBLE + "return 5 }"),
        (go_problems.problem_of(go_problems.DOUBLE, "    nothing()"), "(?s)do not compile.*undefined: nothing"),
        "\n\treturn by(x)\n}\n\nfunc by(x int) int {\n\treturn x * 2\n}\n\nfunc main() {\n\tfmt.Println(Double(1))\n}\n"),
    "cpp": Programs(
        CPP, cpp_problems.RIGHT, 'int twice(int x){ cout << "printed" << endl; return x * 2; }',
        ("int twice(int x){ return x * x; }", r"assert \(twice\(21\) == 42\), at test line 5"),
        ("int twice(int x){ return y; }", "program.cpp:1:26: error: .y. was not declared"),
        ('int twice(int x){ throw out_of_range("no luck"); }', "std::out_of_range: no luck, at call 1"),
        "int twice(int x){ exit(7); }", "int twice(int x){ for (;;) {} }",
        ("int half(int x){ return x / 2; }", "twice"),
        (cpp_problems.problem("int twice(int x)", "assert (off(twice(2)) == 0);",
                              helpers="int off(int x){ return abs(x - 4); }\n"),
         "int off(int x){ return 0; }\nint twice(int x){ return 5; }"),
        (cpp_problems.problem("int twice(int x)", "undeclared;"), "do not compile .*tests:4:5: error"),
        "\n    return x * 2;\n}\n\nint main() {\n    cout << twice(2);\n"),
    "rust": Programs(
        RUST, rust_problems.RIGHT, 'fn twice(x: i32) -> i32 { println!("printed"); x * 2 }',
        ("fn twice(x: i32) -> i32 { x * x }", r"(?s)holds: assertion failed: twice\(21\) == 42, at test line 7"),
        ("fn twice(x: i32) -> i32 { y }", r"anon>:1:\d+: error\[E0425\]: cannot find"),
        ('fn twice(x: i32) -> i32 { panic!("no luck") }', "holds: the program panicked: no luck, at test line 6"),
        "fn twice(x: i32) -> i32 { std::process::exit(7) }", "fn twice(x: i32) -> i32 { loop {} }",
        ("fn half(x: i32) -> i32 { x / 2 }", "twice"),
        (rust_problems.problem("twice(x: i32) -> i32", "assert_eq!(off(twice(2)), 0);",
                               helpers="fn off(x: i32) -> i32 { x - 4 }\n"),
         "fn off(x: i32) -> i32 { 0 }\nfn twice(x: i32) -> i32 { 5 }"),
        (rust_problems.problem("twice(x: i32) -> i32", "undeclared;"), "do not compile .*cannot find value `undeclared`"),
        "\n    by(x)\n}\n\nfn by(x: i32) -> i32 {\n    x * 2\n}\n\nfn main() {\n"),
}


def hurried(judge: Language) -> Language:
    """The same judge with as little time as its start leaves."""
    return limited(judge, cpu_s=2 if judge.name == "java" else 1, wall_s=6)

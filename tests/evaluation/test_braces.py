"""How completions become programs in cpp, java, go, rust and js, and when they are over."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from megatron_ft.evaluation import braces
from megatron_ft.evaluation.brace_grammars import scan
from megatron_ft.evaluation.braces import CPP, GO, JAVA, JS, RUST, Grammar, assemble, is_complete

GRAMMARS = {"cpp": CPP, "java": JAVA, "go": GO, "rust": RUST, "js": JS}


class Pieces(NamedTuple):
    """Texts of one language that completions are made of; the entry point is `twice`."""

    head: str
    """Base before the entry point: an import and the helper `known`."""
    signature: str
    body: str
    """With every trick that a brace can hide in; uses `add`."""
    helper: str
    """`add`, which uses `plus`."""
    helper_of_helper: str
    unrelated: str
    main: str
    own_import: str
    own_known: str
    """`known`, defined anew."""
    usage: str


PIECES = {
    "cpp": Pieces(
        "#include<vector>\nusing namespace std;\nint known(int x){\n    return x;\n}\n",
        "int twice(int x){",
        "    // it's } here\n    /* { */ char c = '}', d = '\\'', q = '\"';\n    string s = \"}\\\"}\" + R\"(}\"})\";\n"
        "    int n = 1'000;\n    if (x) { return add(x, x); }\n    return 0;\n}",
        "int add(int a, const vector<int>& b = {}) {\n    return plus(a);\n}",
        "static inline int plus(int a)\n{\n    return a;\n}",
        "bool is_even(int x) {\n    return x % 2 == 0;\n}",
        "int main() {\n    assert(twice(2) == 4);\n    cout << twice(2) << endl;\n    return 0;\n}",
        "#include <string>", "int known(int y){\n    return y + 0;\n}", "cout << twice(3);"),
    "go": Pieces(
        "import (\n    \"strings\"\n)\n\nfunc known(x int) int {\n    return len(strings.TrimSpace(\"a\")) * x\n}\n",
        "func twice(x int) int {",
        "    // it's } here\n    /* { */ c, d := '}', '\\''\n    s := \"}\\\"\" + `}\"` + `\n}\n`\n"
        "    if x > 0 { return add(x, len(s)) }\n    _, _ = c, d\n    return 0\n}",
        "func add(a, b int) int {\n    return plus(a)\n}", "var plus = func(a int) int {\n    return a\n}",
        "func isEven(x int) bool {\n    return x%2 == 0\n}",
        "func main() {\n    fmt.Println(twice(2))\n}",
        "import \"strings\"",
        "func known(y int) int {\n    return strings.Count(\"a\", \"a\") + y\n}", "fmt.Println(twice(3))"),
    "rust": Pieces(
        "fn main(){}\n\nuse std::{cmp::{max, self}, collections::{HashSet, HashMap}};\n\n"
        "fn known<'a>(x: &'a str) -> &'a str {\n"
        "    x\n}\n",
        "fn twice(x: i32) -> i32 {",
        "    // it's } here\n    /* { /* nested } */ } */ let (c, d) = ('}', '\\'');\n"
        "    let s = \"}\\\"\n}\"; let r = r#\"}\"}\"#;\n"
        "    let f = |y: &'static str| -> char { '{' };\n    if x > 0 { return add(x, x); }\n    0\n}",
        "#[inline]\npub fn add<'a, T: Into<i32>>(a: T, b: i32) -> i32 where T: Clone {\n    plus(a.into()).0\n}",
        "#[derive(Debug, Clone)]\nstruct plus(i32);",
        "fn is_even(x: i32) -> bool {\n    x % 2 == 0\n}",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n"
        "    #[test]\n    fn works() {\n        assert_eq!(twice(2), 4);\n    }\n}",
        "use std::fmt::Write;", "fn known<'a>(y: &'a str) -> &'a str {\n    y\n}", "println!(\"{}\", twice(3));"),
    "js": Pieces(
        "const md5 = require('js-md5')\n\nconst known = (x) => {\n  return x\n}\n",
        "const twice = (x) => {",
        "  // it's } here\n  /* { */ const c = '}', d = \"'\", e = /[}/]\\}'/g\n  const s = `}${`{${x}`}}`\n"
        "  if (x / 2 > 1 / 3) { return add(x, s) }\n  return 0\n}",
        "const add = (a, b = {}) =>\n  plus(a)\n    .valueOf()", "function plus(a) {\n  return a\n}",
        "const isEven = (x) => x % 2 === 0",
        "function main() {\n  console.log(twice(2))\n}",
        "const fs = require('fs')", "function known(y) {\n  return y + 0\n}", "console.log(twice(3))"),
    "java": Pieces(
        "import java.util.*;\n\nclass Solution {\n    public int known(int x) {\n        return x;\n    }\n",
        "    public int twice(int x) {",
        "        // it's } here\n        /* { */ char c = '}', d = '\\'';\n"
        "        String s = \"}\\\"\" + \"\"\"\n            }\" \"\"\";\n"
        "        if (x > 0) { return Adder.add(x, x); }\n        return 0;\n    }\n}",
        "class Adder {\n    static int add(int a, int b) {\n        return new Plus(a).a;\n    }\n}", "record Plus(int a) { }",
        "class Other<T> {\n    T x;\n}",
        "public class Main {\n    public static void main(String[] args) {\n"
        "        System.out.println(new Solution().twice(2));\n    }\n}",
        "import java.util.stream.Collectors;", "    public int known(int y) {\n        return y + 0;\n    }",
        "System.out.println(new Solution().twice(3));"),
}
PROSE = "\n\nThis function returns twice its argument. It's called like this: {see below}\n"


def code(text: str) -> str:
    """A text without empty lines and the indentation that wrapping may change."""
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


def base_of(pieces: Pieces) -> str:
    return pieces.head + pieces.signature


def whole(pieces: Pieces) -> str:
    """The function as a model writes it anew; in java in its class."""
    function = f"{pieces.signature}\n{pieces.body}"
    return f"class Solution {{\n{function}" if "class Solution" in pieces.head else function


def followed(pieces: Pieces, *behind: str) -> str:
    return "\n" + "\n\n".join([pieces.body, *behind])


# What a model writes behind the function's signature -> whether its two helpers are kept.
CONTINUED = {
    "the body": (lambda p: followed(p), False),
    "the body and words": (lambda p: followed(p) + PROSE, False),
    "the body and a fence": (lambda p: followed(p) + "\n```\n\nIt doesn't need {\n```", False),
    "the body and a list": (lambda p: followed(p) + "\n\n- First, it adds.\n- Then it's done {\n", False),
    "helpers": (lambda p: followed(p, p.helper, p.helper_of_helper), True),
    "helpers in another order": (lambda p: followed(p, p.helper_of_helper, p.helper), True),
    "helpers behind what is not used": (lambda p: followed(p, p.main, p.unrelated, p.helper, p.helper_of_helper) + PROSE, True),
    "another function": (lambda p: followed(p, p.unrelated) + PROSE, False),
    "the function again": (lambda p: followed(p, p.head, p.signature + "\n" + p.body, p.main), False),
    "a main function": (lambda p: followed(p, p.main), False),
    "an example": (lambda p: followed(p, p.usage), False),
    "a helper that is known": (lambda p: followed(p, p.own_known) if "class" not in p.head else followed(p), False),
    "a half-written function": (lambda p: followed(p, p.unrelated.rpartition("\n")[0]), False),
    "the body in a fence": (lambda p: f"\n```\n{p.body}\n```\nThat's it.", False),
}


@pytest.mark.parametrize("kind", CONTINUED)
@pytest.mark.parametrize("language", GRAMMARS)
def test_a_completion_goes_on_with_base(language: str, kind: str) -> None:
    pieces = PIECES[language]
    completion, helpers = CONTINUED[kind]
    program = assemble(GRAMMARS[language], base_of(pieces), completion(pieces), "twice")
    for name, text in (("helper", pieces.helper), ("helper of helper", pieces.helper_of_helper)):
        assert (code(text) in code(program)) is helpers, name
    kept = code(program)
    for text in (pieces.helper, pieces.helper_of_helper):
        kept = kept.replace(code(text), "")
    assert code(kept) == code(f"{base_of(pieces)}\n{pieces.body}")


ANEW = {
    "a fence": "\n\nHere's the fixed code:\n\n```LANGUAGE\nWHOLE\n```\n\nIt's {fixed} now.",
    "a fence without a language": "\n```\nWHOLE\n```\n",
    "a fence of tildes": "Sure!\n~~~LANGUAGE\nWHOLE\n~~~\nDone.",
    "a fence that stays open": "\n```LANGUAGE\nWHOLE\n",
    "a fence that is indented": "\n1. Like this:\n\n   ```LANGUAGE\nINDENTED\n   ```\n",
    "two fences": "\nRun it:\n```bash\nmake {\n```\nThe code:\n```LANGUAGE\nWHOLE\n```\nand use it:\n```LANGUAGE\nUSAGE\n```\n",
    "the function twice": "\n```LANGUAGE\nWHOLE\n```\nOr so:\n```LANGUAGE\nWHOLE\nMAIN\n```",
    "a fence with more": "\n```LANGUAGE\nWHOLE\n\nUNRELATED\n\nMAIN\n\nUSAGE\n```",
    "no fence": "\n\nHere's the fixed code:\n\nWHOLE\n\nIt's called so:\n\nUSAGE\n",
    "no word": "\nWHOLE\n\nMAIN\n",
    "the end of what was begun": "END\n\nWHOLE\n\nMAIN\n",
}


@pytest.mark.parametrize("kind", ANEW)
@pytest.mark.parametrize("language", GRAMMARS)
def test_an_answer_written_anew_stands_by_itself(language: str, kind: str) -> None:
    pieces = PIECES[language]
    end = "\n    }\n}" if language == "java" else "\n}"
    text = ANEW[kind].replace("END", end).replace("LANGUAGE", language)
    text = text.replace("USAGE", pieces.usage).replace("MAIN", pieces.main)
    indented = "\n".join(f"   {line}" for line in whole(pieces).split("\n"))
    text = text.replace("UNRELATED", pieces.unrelated).replace("WHOLE", whole(pieces)).replace("INDENTED", indented)
    program = assemble(GRAMMARS[language], base_of(pieces), text, "twice")
    if language == "go":  # what is not used must not be imported
        assert "strings" in program
    assert code(program) == code(f"{base_of(pieces)}\n{pieces.body}")


@pytest.mark.parametrize("language", GRAMMARS)
def test_what_an_answer_brings_is_not_there_twice(language: str) -> None:
    """Imports and helpers of base that the answer has as well; Go and Rust forbid an import that is there twice."""
    pieces = PIECES[language]
    text = whole(pieces).replace(pieces.signature, f"{pieces.own_known}\n\n{pieces.signature}")
    text = "\n```\n" + "\n\n".join([pieces.own_import, text, pieces.helper, pieces.helper_of_helper, pieces.main]) + "\n```\n"
    program = assemble(GRAMMARS[language], base_of(pieces), text, "twice")
    own_import = pieces.own_import.removeprefix("import ")  # Go's are gathered
    for part in (own_import, pieces.own_known, pieces.helper, pieces.helper_of_helper, pieces.body):
        assert program.count(part) == 1, part
    assert pieces.main not in program
    old_known = next(line for line in pieces.head.splitlines() if "known" in line)
    assert old_known not in program


def test_an_import_in_go_is_there_once_and_only_if_it_is_used() -> None:
    base = "import (\n    \"math\"\n    \"strings\"\n)\n\nfunc F(x float64) float64 {"
    anew = ("\n```go\npackage main\n\nimport \"fmt\"\nimport m \"math\"\nimport (\n\t\"strings\"\n\t\"os\"\n)\n\n"
            "func F(x float64) float64 {\n\treturn m.Abs(x) + float64(strings.Count(\"os\", \"o\"))\n}\n\n"
            "func main() {\n\tfmt.Println(F(1))\n}\n```")
    assert assemble(GO, base, anew, "F") == (
        "import (\n    \"strings\"\n    m \"math\"\n)\n\n"
        "func F(x float64) float64 {\n\treturn m.Abs(x) + float64(strings.Count(\"os\", \"o\"))\n}\n")


def test_an_import_in_rust_is_there_once() -> None:
    base = "fn main(){}\nuse std::{cmp::{max, self}, collections::{HashSet, HashMap}};\nuse regex::Regex;\nfn f(x: i32) -> i32{"
    anew = "\n```rust\nuse std::collections::HashMap;\n\nfn f(x: i32) -> i32 {\n    max(x, 1)\n}\n\nfn main() {}\n```"
    program = assemble(RUST, base, anew, "f")
    assert program.count("HashMap;") == 1
    assert program.count("fn main") == 1
    assert all(f"use {path};" in program for path in ("std::cmp::max", "std::cmp", "std::collections::HashSet", "regex::Regex"))
    behind = "\n    let m: HashMap<i32, VecDeque<i32>> = g();\n    0\n}\n\nuse std::collections::{HashMap, VecDeque};\n"
    assert code(assemble(RUST, base, behind, "f")).endswith("0\n}\nuse std::collections::VecDeque;")


JAVA_BASE = "import java.util.*;\n\nclass Solution {\n    int known() { return 1; }\n\n"
JAVA_BASE += "    /** Twice. */\n    public int twice(int x) {"
JAVA_METHOD = "    public int twice(int x) {\n        return add(x);\n    }"
JAVA_HELPER = "    private static int add(int x) {\n        return x + x;\n    }"
JAVA_WHOLE = f"import java.util.*;\nclass Solution {{\nint known() {{ return 1; }}\n{JAVA_METHOD}\n{JAVA_HELPER}\n}}"
JAVA_COMPLETIONS = {
    "the method and a member": f"\n        return add(x);\n    }}\n\n{JAVA_HELPER}\n}}",
    "no end of the class": f"\n        return add(x);\n    }}\n\n{JAVA_HELPER}\n",
    "no end of the class, and a fence": f"\n        return add(x);\n    }}\n\n{JAVA_HELPER}\n```\nIt adds.",
    "no end of the class, and words": (
        f"\n        return add(x);\n    }}\n\n{JAVA_HELPER}\n\nThis method adds x to itself. {{\n"),
    "a member that is half written": (
        f"\n        return add(x);\n    }}\n\n{JAVA_HELPER}\n\n    public int other(int x) {{\n   return"),
    "the method alone": f"\nHere's the method:\n```java\n{JAVA_METHOD}\n\n{JAVA_HELPER}\n```\nIt adds.",
    "the method alone, no fence": f"\n{JAVA_METHOD}\n\n{JAVA_HELPER}\n}}\n\nIt adds.",
    "a class of another name": f"\n```java\npublic class Doubler {{\n{JAVA_METHOD}\n\n{JAVA_HELPER}\n}}\n```",
    "a public class": (
        f"\n```java\npublic class Solution {{\n{JAVA_METHOD}\n{JAVA_HELPER}\n}}\n\nclass Main {{ void f() {{}} }}\n```"),
    "a class that is left open": f"\n```java\npublic class Solution {{\n{JAVA_METHOD}\n{JAVA_HELPER}\n```",
    "the whole file": f"\n```java\n{JAVA_WHOLE}\n```",
}


@pytest.mark.parametrize("kind", JAVA_COMPLETIONS)
def test_a_java_answer_is_a_method_of_the_class_solution(kind: str) -> None:
    program = code(assemble(JAVA, JAVA_BASE, JAVA_COMPLETIONS[kind], "twice")).replace("/** Twice. */\n", "")
    assert program == code(JAVA_WHOLE)


def test_a_renamed_class_keeps_its_constructors_and_its_strings() -> None:
    answer = ("\n```java\npublic class Main extends Base {\n    Main() { System.out.print(\"Main\"); }\n"
              f"{JAVA_METHOD}\n    static Main of() {{ return new Main(); }}\n}}\nclass Base {{ }}\nclass Unused {{ }}\n```")
    program = assemble(JAVA, JAVA_BASE, answer, "twice")
    assert "class Solution extends Base {" in program
    assert "Solution() { System.out.print(\"Main\"); }" in program
    assert "new Solution()" in program
    assert "class Base { }" in program
    assert "Unused" not in program


ENDS = {"words": "\n\nThis function returns x. It's", "a fence": "\n```", "a heading": "\n\n## Explanation",
        "bold words": "\n\n**Note**: the", "a list": "\n\n1. It", "the end of a list": "\n\n* It is"}


@pytest.mark.parametrize("language", GRAMMARS)
def test_generation_may_stop_when_the_rest_would_be_cut(language: str) -> None:
    pieces, grammar = PIECES[language], GRAMMARS[language]
    for kind, end in ENDS.items():
        assert is_complete(grammar, followed(pieces) + end, "twice"), kind
    assert is_complete(grammar, followed(pieces, pieces.unrelated, "T"), "twice")
    assert is_complete(grammar, followed(pieces, pieces.main, "T"), "twice")
    assert is_complete(grammar, followed(pieces, pieces.usage, "T"), "twice")
    fenced = f"\nHere it is:\n```{language}\n{whole(pieces)}\n\n{pieces.main}\n"
    assert is_complete(grammar, fenced + "```", "twice")
    assert is_complete(grammar, fenced + "```\nThat", "twice")
    assert not is_complete(grammar, fenced.replace(pieces.main, ""), "twice")
    assert not is_complete(grammar, f"\nFirst:\n```\n{pieces.unrelated}\n```\nThen:\nA", "twice")


@pytest.mark.parametrize("language", GRAMMARS)
def test_generation_does_not_stop_before_a_used_helper_is_there(language: str) -> None:
    pieces = PIECES[language]
    text = followed(pieces, pieces.helper, pieces.helper_of_helper)
    ends = [end for end in range(len(text) + 1) if is_complete(GRAMMARS[language], text[:end], "twice")]
    assert not ends, text[:ends[0]]


@pytest.fixture(params=GRAMMARS)
def rows(request: pytest.FixtureRequest, humanevalpack: Path) -> tuple[Grammar, list[dict]]:
    """One language's rows of HumanEvalPack."""
    lines = (humanevalpack.parent / f"{request.param}.jsonl").read_text().splitlines()
    return GRAMMARS[request.param], [json.loads(line) for line in lines]


# CPP/94's solutions end with `#undef NDEBUG #include<assert.h>`, a piece of the tests, which nothing uses.
CUT = {"CPP/94"}
LEFT_OPEN = {"CPP/38"}  # its declaration goes on into the body; the solution closes one brace too few, and so nothing is cut


def test_cutting_changes_no_solution_of_humanevalpack(rows: tuple[Grammar, list[dict]]) -> None:
    grammar, problems = rows
    for number, row in enumerate(problems):
        for base in (row["prompt"], ("fn main(){}\n" if grammar is RUST else "") + row["declaration"]):
            for solution in (row["canonical_solution"], row["buggy_solution"]):
                expected = code(f"{base}\n{solution}") if row["task_id"] not in CUT else code(f"{base}\n{solution}")[:-len(
                    "#undef NDEBUG\n#include<assert.h>") - 1]
                program = assemble(grammar, base, "\n" + solution, row["entry_point"])
                assert code(program) == expected, row["task_id"]
                if number % 8 or row["task_id"] in LEFT_OPEN:
                    continue
                for behind in (PROSE, "\n```\nIt's done {", "\n\n" + PIECES[grammar.name].main):
                    program = assemble(grammar, base, f"\n{solution}{behind}", row["entry_point"])
                    assert code(program) == expected, row["task_id"]


def test_every_solution_of_humanevalpack_may_be_written_anew(rows: tuple[Grammar, list[dict]]) -> None:
    """With its imports and helpers, in a fence and between words, whatever base began; Rust/32's function is indented."""
    grammar, problems = rows
    for number, row in enumerate(problems):
        if row["task_id"] in CUT | LEFT_OPEN or number % 4 and row["task_id"] not in ("Java/99", "Rust/137", "Go/72"):
            continue
        text = f"{row['declaration'].strip()}\n{row['canonical_solution'].rstrip()}"
        for answer in (f"\nHere's it:\n```\n{text}\n```\nIt's done.", f"\nHere is it:\n\n{text}\n\nIt's done {{"):
            for base in (row["prompt"], row["declaration"]):
                program = assemble(grammar, base, answer, row["entry_point"])
                missing = words_in(grammar, text) - words_in(grammar, program)
                assert not missing - Counter(["use"]), row["task_id"]  # Rust's imports may be merged
                assert "done" not in program, row["task_id"]


def words_in(grammar: Grammar, text: str) -> Counter[str]:
    return Counter(token.text for token in scan(grammar, text) if token.kind in ("word", "text", "number"))


def test_generation_never_stops_inside_a_solution_of_humanevalpack(rows: tuple[Grammar, list[dict]]) -> None:
    grammar, problems = rows
    for row in problems:
        text = "\n" + row["canonical_solution"].rstrip()
        ends = {*range(0, len(text), max(1, len(text) // 20)), *range(len(text) - 4, len(text) + 1)}
        assert not any(is_complete(grammar, text[:end], row["entry_point"]) for end in ends), row["task_id"]
        assert is_complete(grammar, text + PROSE.rstrip(), row["entry_point"]), row["task_id"]


@pytest.mark.parametrize("language", GRAMMARS)
def test_any_part_of_an_answer_becomes_some_program(language: str) -> None:
    """However an answer was cut off, whatever was left out of it."""
    pieces = PIECES[language]
    rest = "\n\n".join([pieces.own_import, pieces.own_known, whole(pieces), pieces.helper, pieces.main, "It's `{done`."])
    for text in (f"Here:\n```{language}\n{rest}\n```\n", f"\n{rest}", followed(pieces, rest)):
        for start in range(0, len(text), 23):
            for end in range(start, len(text), 37):
                part = text[:start] + text[end:] if end % 2 else text[start:end]
                assert assemble(GRAMMARS[language], base_of(pieces), part, "twice")
                is_complete(GRAMMARS[language], part, "twice")


def test_a_function_s_name_is_the_one_that_base_begins() -> None:
    assert braces.function_name(CPP, "int g(){\n}\nint solutions(vector<int> x){\n", "solution") == "solutions"
    assert braces.function_name(RUST, "fn main(){}\nfn solve_161<'a>(s: &'a str) -> String{\n", "solve") == "solve_161"
    java = "class Solution {\n  int g() { }\n  public int closest(String x) {\n"
    assert braces.function_name(JAVA, java, "count") == "closest"
    assert braces.function_name(JS, "const minSubArraySum = (nums) => {\n", "minSubarraySum") == "minSubArraySum"


@pytest.mark.parametrize("text", ["`${" * 5000, "{" * 20000, "\n}\n" + "(" * 20000, "/*" * 5000, "<" * 20000, "r#\"" * 5000,
                                  "```\n" * 3000, "\n}\nint " * 2000, "\n}\ntemplate <" * 2000, "const a = `" * 3000])
@pytest.mark.parametrize("language", GRAMMARS)
@pytest.mark.timeout(20)
def test_a_degenerate_completion_takes_no_time(language: str, text: str) -> None:
    """What models repeat without end must neither overflow a stack nor make a pattern backtrack."""
    assert assemble(GRAMMARS[language], base_of(PIECES[language]), text, "twice")
    is_complete(GRAMMARS[language], text, "twice")

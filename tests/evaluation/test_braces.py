"""How completions become programs in cpp, java, go, rust and js, and when they are over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from megatron_ft.evaluation import braces
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
        "int add(int a, const vector<int>& b = {}) {\n    return plus(a);\n}", "static inline int plus(int a)\n{\n    return a;\n}",
        "bool is_even(int x) {\n    return x % 2 == 0;\n}",
        "int main() {\n    assert(twice(2) == 4);\n    cout << twice(2) << endl;\n    return 0;\n}",
        "#include <string>", "int known(int y){\n    return y + 0;\n}", "cout << twice(3);"),
    "go": Pieces(
        "import (\n    \"strings\"\n)\n\nfunc known(x int) int {\n    return len(strings.TrimSpace(\"a\")) * x\n}\n",
        "func twice(x int) int {",
        "    // it's } here\n    /* { */ c, d := '}', '\\''\n    s := \"}\\\"\" + `}\"` + `\n}\n`\n"
        "    if x > 0 { return add(x, len(s)) }\n    _, _ = c, d\n    return 0\n}",
        "func add(a, b int) int {\n    return plus(a)\n}", "type number struct {\n    plus func(int) int\n}\nvar plus = func(a int) int {\n"
        "    return a\n}".partition("\n}\n")[2],
        "func isEven(x int) bool {\n    return x%2 == 0\n}",
        "func main() {\n    fmt.Println(twice(2))\n}",
        "", "func known(y int) int {\n    return strings.Count(\"a\", \"a\") + y\n}", "fmt.Println(twice(3))"),
    "rust": Pieces(
        "fn main(){}\n\nuse std::{cmp::{max, self}, collections::{HashSet, HashMap}};\n\nfn known<'a>(x: &'a str) -> &'a str {\n"
        "    x\n}\n",
        "fn twice(x: i32) -> i32 {",
        "    // it's } here\n    /* { /* nested } */ } */ let (c, d) = ('}', '\\'');\n    let s = \"}\\\"\n}\"; let r = r#\"}\"}\"#;\n"
        "    let f = |y: &'static str| -> char { '{' };\n    if x > 0 { return add(x, x); }\n    0\n}",
        "#[inline]\npub fn add<'a, T: Into<i32>>(a: T, b: i32) -> i32 where T: Clone {\n    plus(a.into()).0\n}",
        "#[derive(Debug, Clone)]\nstruct plus(i32);",
        "fn is_even(x: i32) -> bool {\n    x % 2 == 0\n}",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n    #[test]\n    fn works() {\n        assert_eq!(twice(2), 4);\n    }\n}",
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
        "        // it's } here\n        /* { */ char c = '}', d = '\\'';\n        String s = \"}\\\"\" + \"\"\"\n            }\" \"\"\";\n"
        "        if (x > 0) { return Adder.add(x, x); }\n        return 0;\n    }\n}",
        "class Adder {\n    static int add(int a, int b) {\n        return new Plus(a).a;\n    }\n}", "record Plus(int a) { }",
        "class Other<T> {\n    T x;\n}",
        "public class Main {\n    public static void main(String[] args) {\n        System.out.println(new Solution().twice(2));\n    }\n}",
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
}


@pytest.mark.parametrize("kind", ANEW)
@pytest.mark.parametrize("language", GRAMMARS)
def test_an_answer_written_anew_stands_by_itself(language: str, kind: str) -> None:
    pieces = PIECES[language]
    text = ANEW[kind].replace("LANGUAGE", language).replace("USAGE", pieces.usage).replace("MAIN", pieces.main)
    indented = "\n".join(f"   {line}" for line in whole(pieces).split("\n"))
    text = text.replace("UNRELATED", pieces.unrelated).replace("WHOLE", whole(pieces)).replace("INDENTED", indented)
    program = assemble(GRAMMARS[language], base_of(pieces), text, "twice")
    if language == "go":  # what is not used must not be imported
        assert "strings" in program
    assert code(program) == code(f"{base_of(pieces)}\n{pieces.body}")

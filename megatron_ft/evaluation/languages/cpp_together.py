"""C++: the tests of several problems in one source, each in a namespace of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from megatron_ft.evaluation.languages.declared import closing_brace, without_comments, without_comments_and_strings

DIRECTIVE = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
INCLUDE = re.compile(r"[ \t]*#\s*include\s*<[^>\n]*>\s*")
NO_NDEBUG = re.compile(r"[ \t]*#\s*undef\s+NDEBUG\s*")
USING_STD = re.compile(r"\busing\s+namespace\s+std\s*;")
MAIN = re.compile(r"\bint\s+main\s*\(\s*(?:void)?\s*\)\s*(?=\{)")
RENAMED = "int megatron_ft_main() "


def is_functions_only(text: str) -> bool:
    """Whether a text, beside headers of the standard library and such, is functions: nothing runs that is not called.

    >>> is_functions_only("#include <map>\\nint main() { int x = 1; }"), is_functions_only("int x = f();\\nint main() {}")
    (True, False)
    """
    code = without_comments_and_strings(text)
    if not all(INCLUDE.fullmatch(line) or NO_NDEBUG.fullmatch(line) for line in DIRECTIVE.findall(code)):
        return False
    outside = USING_STD.sub("", DIRECTIVE.sub("", code))
    while (begin := outside.find("{")) >= 0:
        outside = outside[:begin] + outside[closing_brace(outside, begin):]
    return not re.search(r"[;=}\\]|\b(?:namespace|extern)\b", outside)


def has_one_main(tests: str) -> bool:
    """Whether `joined` can find the main of these tests."""
    return len(MAIN.findall(without_comments_and_strings(tests))) == 1


def joined(parts: Sequence[tuple[str, str, str]]) -> str:
    """The source; the first word that the executable gets is the number of the part whose tests it runs.

    Args:
        parts: what stands before the tests, with all `#line`s; the tests, with their main; what stands behind them.
    """
    includes: dict[str, None] = {}
    for before, tests, _ in parts:
        found = DIRECTIVE.findall(without_comments(f"{before}\n{tests}"))
        includes.update(dict.fromkeys(line.strip() for line in found if INCLUDE.fullmatch(line)))
    spaces = [f"namespace p{number} {{\n{_blanked(before)}{_blanked(_renamed(tests))}\n{behind}}}\n"
              for number, (before, tests, behind) in enumerate(parts)]
    cases = "".join(f"        case {number}: return p{number}::megatron_ft_main();\n" for number in range(len(parts)))
    return "\n".join([*includes, *spaces, "int main(int, char** argv) {", "    switch (std::atoi(argv[1])) {",
                      f"{cases}    }}", "    return 2;", "}", ""])


def _blanked(text: str) -> str:
    """A text without its includes; its lines keep their numbers."""
    code = without_comments(text)
    for found in reversed(list(DIRECTIVE.finditer(code))):
        if INCLUDE.fullmatch(found[0]) or NO_NDEBUG.fullmatch(found[0]):
            text = text[: found.start()] + text[found.end():]
    return text


def _renamed(tests: str) -> str:
    """The tests, whose main is a function like any other: it returns 0 where it does not say so itself."""
    code = without_comments_and_strings(tests)
    found = MAIN.search(code)
    end = closing_brace(code, found.end()) - 1
    return f"{tests[: found.start()]}{RENAMED}{tests[found.end(): end]}return 0; {tests[end:]}"

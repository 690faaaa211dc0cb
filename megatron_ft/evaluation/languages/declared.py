"""Reads the declarations of a problem's text: what C++ and Rust have in common."""

from __future__ import annotations

import re

# Strings first: what looks like a comment in one is none. A character such as '"' begins no string.
COMMENT_OR_STRING = re.compile(r"""(//[^\n]*|/\*.*?(?:\*/|\Z))|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\\n])'""", re.DOTALL)


def without_comments(text: str) -> str:
    """A text of the same length and lines, with spaces for comments; examples of calls stand in comments.

    >>> without_comments('f("//"); // f(1)')
    'f("//");        '
    """
    return COMMENT_OR_STRING.sub(lambda found: re.sub(r"[^\n]", " ", found[1]) if found[1] else found[0], text)


def without_comments_and_strings(text: str) -> str:
    """The same with spaces for what stands in quotes, too.

    >>> without_comments_and_strings('f("{"); // f(1)')
    'f(   );        '
    """
    return COMMENT_OR_STRING.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def split(parameters: str) -> list[str]:
    """The parts between those commas that are in no bracket; an empty part is left out.

    >>> split("map<string,string> a, int b")
    ['map<string,string> a', 'int b']
    """
    parts, depth, before = [""], 0, ""
    for character in parameters:
        depth += (character in "<([{") - (character in ")]}" or (character == ">" and before != "-"))
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
        before = character
    return [part.strip() for part in parts if part.strip()]


def closing_brace(text: str, start: int) -> int:
    """The place after the brace that closes the first one from `start`; the text's end if none does."""
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return start + brace.end()
    return len(text)

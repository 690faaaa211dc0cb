"""Java's answers: a method in a class, whose members may stand around it, with other classes behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from megatron_ft.evaluation.brace_grammars import JAVA, Token, scan
from megatron_ft.evaluation.brace_items import Item, closing, followers, following, item_at, outline, used, words_of

SOLUTION = "Solution"


def continued(base: str, text: str, tokens: Sequence[Token], depth: int) -> str:
    """What is kept of a completion that goes on with a method: it, further members, classes that it uses.

    A class that is left open is closed behind its last member.
    """
    method = closing(tokens, depth - 1)
    if method is None:
        return text
    members, _ = following(JAVA, text, tokens, method + 1)
    after = members[-1].after if members else method + 1
    if after < len(tokens) and tokens[after].text == "}":
        return text[:tokens[after].end] + "".join(f"\n\n{part}" for part in followers(JAVA, base, text, tokens, after + 1))
    if members and not members[-1].closed:
        before = [token for token in tokens if token.start < members[-1].start]
        if not members[-1].names & words_of(text, before):
            members.pop()
    end = members[-1].end if members else tokens[method].end
    return text[:end] + "\n}"


def written_anew(base: str, text: str, entry: Item, others: Sequence[str] = ()) -> str:
    """A program of an answer that has the method `entry`: alone, in a class Solution, or in one of another name.

    Args:
        others: texts beside it, of which those classes are taken that it uses and does not have.
    """
    around = _class_around(text, list(scan(JAVA, text)), entry)
    if around is not None:
        classes = [item for other in others for item in _items(other) if item.closed and JAVA.blocks[0].match(item.text)]
        known = {name for item in _items(text) for name in item.names}
        text += "".join(f"\n\n{item.text}" for item in classes if not item.names & known)
    tokens = list(scan(JAVA, text))
    around = _class_around(text, tokens, entry)
    tail, body, others = _of_class(text, tokens, around) if around else _of_method(text, tokens, entry)
    names = {name for item in _items(body) for name in item.names}
    known = [item for item in _items(base) if item.text.startswith("import")]
    imports = [item.text for item in (*known, *_items(text)) if item.text.startswith("import")]
    helpers = [item.text for item in _members_begun(base) if item.closed and not item.names & names]
    members = "\n\n".join(f"    {part.strip()}" for part in (*helpers, body))
    return "\n".join([*dict.fromkeys(imports), "", f"class {SOLUTION}{tail} {{", members, "}", *others])


def _class_around(text: str, tokens: Sequence[Token], entry: Item) -> Item | None:
    """The innermost class that a method stands in."""
    found = None
    for first, token in enumerate(tokens):
        if token.start >= entry.start:
            break
        match = JAVA.blocks[0].match(text, token.start) if token.kind == "word" else None
        item = item_at(JAVA, text, tokens, first) if match else None
        # Its modifiers begin it, and each of the words behind them would begin it as well.
        if item is not None and item.end > entry.start and (found is None or item.end < found.end):
            found = item
    return found


def _of_class(text: str, tokens: list[Token], around: Item) -> tuple[str, str, list[str]]:
    """What follows a class's name, its members, and the other classes that they use; the class is renamed in them."""
    (name,) = around.names
    brace = next(i for i, token in enumerate(tokens) if token.text == "{" and token.start >= around.start)
    end = around.end - 1
    if not around.closed:
        members, _ = following(JAVA, text, tokens, brace + 1)
        end = max((member.end for member in members if member.closed), default=around.end)
    header = text[around.start:tokens[brace].start]
    tail = re.sub(rf"(?s).*?\b(?:class|enum|record|interface)\s+{name}\b", "", header).strip()
    body = text[tokens[brace].end:end]
    words = words_of(text, [token for token in tokens if around.start <= token.start < around.end])
    others = [item for item in _items(text) if item.end <= around.start or item.start >= around.end]
    kept = used([item for item in others if item.names], JAVA, words, {name})
    return f" {tail}".rstrip(), _renamed(body, name), [_renamed(item.text, name) for item in kept]


def _of_method(text: str, tokens: list[Token], entry: Item) -> tuple[str, str, list[str]]:
    """The same where the method stands in no class."""
    before = [item for item in _items(text) if item.end <= entry.start and item.names]
    first = next(i for i, token in enumerate(tokens) if token.start >= entry.end) if tokens[-1].end > entry.end else len(tokens)
    after, _ = following(JAVA, text, tokens, first)
    kept = [item for item in (*before, entry, *after) if item.closed or item is entry]
    return "", "\n\n".join(item.text for item in kept if not item.names & JAVA.never_kept), []


def method_begun(base: str) -> Item | None:
    """The method that base leaves open."""
    members = _members_begun(base)
    return members[-1] if members and not members[-1].closed else None


def _members_begun(base: str) -> list[Item]:
    """The members of the class that base leaves open, the last one being open as well."""
    tokens = list(scan(JAVA, base))
    brace = next((i for i, token in enumerate(tokens) if token.text == "{"), None)
    return following(JAVA, base, tokens, brace + 1)[0] if brace is not None else []


def _items(text: str) -> list[Item]:
    return list(outline(JAVA, text, list(scan(JAVA, text))))


def _renamed(text: str, name: str) -> str:
    """A text with a class's name, as a word of code, replaced by the one that the tests use."""
    parts, at = [], 0
    for token in scan(JAVA, text):
        if token.kind == "word" and token.text == name:
            parts += [text[at:token.start], SOLUTION]
            at = token.end
    return "".join([*parts, text[at:]])

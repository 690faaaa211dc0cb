"""How a completion becomes a program in languages with braces, and when it is over.

A model goes on with the answer's beginning, `base`, or writes the answer anew, in a fenced block or between chatty words.
What is kept: the function (in java its class), and of the definitions that follow those that it uses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from megatron_ft.evaluation import brace_java
from megatron_ft.evaluation.brace_grammars import CPP, GO, JAVA, JS, RUST, Grammar, Token, scan
from megatron_ft.evaluation.brace_items import (
    Item,
    begun,
    closing,
    followers,
    following,
    item_at,
    outline,
    rendered,
    used,
    words_of,
)
from megatron_ft.evaluation.chat_answers import cleaned, fenced, unquoted

__all__ = ["CPP", "GO", "JAVA", "JS", "RUST", "Grammar", "assemble", "function_name", "is_complete"]

GO_IMPORT = re.compile(r"((?:[\w.]+[ \t]+)?)([\"`][^\"`]+[\"`])")


class Answer(NamedTuple):
    """A part of a completion."""

    text: str
    anew: bool
    """It defines the entry point by itself; else it goes on with what was begun."""
    closed: bool
    """A fence follows it."""
    others: tuple[str, ...] = ()
    """The fenced blocks beside it, which may hold what it uses."""
    doubtful: bool = False
    """It may be the question's code, which an answer repeats before it corrects it."""


def assemble(grammar: Grammar, base: str, completion: str, entry_point: str, *, quoted: str = "") -> str:
    """The program that a completion of `base` makes.

    Args:
        quoted: code that the question gave and that an answer may repeat before it corrects it.

    >>> assemble(GO, "func F(x int) int {", "\\n    return x\\n}\\n\\nThis returns x.", "F")
    'func F(x int) int {\\n    return x\\n}\\n'
    """
    names = list(dict.fromkeys((function_name(grammar, base, entry_point), entry_point)))
    depth = max(_depth(list(scan(grammar, base))), grammar.depth)
    answer = _answer(grammar, cleaned(completion), names, depth, quoted)
    if not answer.anew:
        program = base.rstrip() + _continued(grammar, base, answer.text, depth)
    elif grammar is JAVA:
        tokens = list(scan(grammar, answer.text))
        program = brace_java.written_anew(base, answer.text, _definition(grammar, answer.text, tokens, names), answer.others)
    else:
        program = _anew(grammar, base, answer, names)
    return program.rstrip() + "\n"


def is_complete(grammar: Grammar, completion: str, entry_point: str = "") -> bool:
    """Whether whatever a model writes next would be cut off; without an entry point any function is taken for it.

    Asked after every token, so it looks closer only where something stands at the margin of the last line: a body's lines
    cost nothing, and what ends an answer begins at the margin.
    """
    last_line = completion[completion.rfind("\n") + 1:]
    if not last_line[:1].strip() or "}" not in completion:
        return False
    answer = _answer(grammar, cleaned(completion), [entry_point], grammar.depth)
    tokens = list(scan(grammar, answer.text))
    if answer.anew:
        if answer.closed or answer.doubtful:
            return not answer.doubtful
        entry = _definition(grammar, answer.text, tokens, [entry_point])
        if entry is None or not entry.closed or grammar is JAVA:
            return False
        return _is_over(grammar, answer.text, tokens, entry.after)
    end = closing(tokens, grammar.depth)
    if end is not None:
        return answer.closed or _is_over(grammar, answer.text, tokens, end + 1)
    method = closing(tokens, 1) if grammar is JAVA else None
    return method is not None and (answer.closed or following(grammar, answer.text, tokens, method + 1)[1])


def function_name(grammar: Grammar, base: str, entry_point: str) -> str:
    """The function that `base` leaves open: some declarations give it another name than `entry_point`.

    >>> function_name(JS, "const minSubArraySum = (nums) => {", "minSubarraySum")
    'minSubArraySum'
    """
    last = brace_java.method_begun(base) if grammar is JAVA else begun(grammar, base)
    if last is None or entry_point in last.names:
        return entry_point
    return next(iter(last.names), entry_point)


def _is_over(grammar: Grammar, text: str, tokens: Sequence[Token], first: int) -> bool:
    """Whether what follows a closed function shows that no more of it is needed."""
    items, stopped = following(grammar, text, tokens, first)
    kept = used(items, grammar, words_of(text, tokens[:first]), set())
    unused = [item for item in items if item.names and item not in kept]
    return stopped or any(item.closed or item.names & grammar.never_kept for item in unused)


def _answer(grammar: Grammar, completion: str, names: Sequence[str], depth: int, quoted: str = "") -> Answer:
    """The part of a completion that is the answer."""
    before, blocks = fenced(completion)
    tokens = list(scan(grammar, before))
    end = closing(tokens, depth - 1 if grammar is JAVA else depth)
    entry = _definition(grammar, before, tokens, names)
    # Some models close what was begun at once, to write it anew.
    if end is not None and (entry is None or end > 0 and tokens[end].start < entry.start):
        return Answer(before, False, bool(blocks))
    if entry is not None:
        return Answer(before, True, bool(blocks))
    defining = [(block, entry) for block in unquoted(blocks, quoted)
                if (entry := _definition(grammar, block.text, list(scan(grammar, block.text)), names)) is not None]
    if defining:
        chosen, _ = next((found for found in defining if found[1].closed), defining[0])
        closed = [block for block, _ in defining if block.closed]
        others = tuple(f"{block.text}\n\n" for block in blocks if block is not chosen and block.closed)
        return Answer(chosen.text, True, bool(closed), others, doubtful=len(closed) < 2 and chosen.may_quote)
    for block in blocks[:1]:
        if closing(list(scan(grammar, block.text)), depth - 1 if grammar is JAVA else depth) is not None:
            return Answer("\n" + block.text, False, block.closed)
    return Answer(before, False, bool(blocks))


def _definition(grammar: Grammar, text: str, tokens: Sequence[Token], names: Sequence[str]) -> Item | None:
    """The first definition of one of the names, or of any function if the name is empty.

    It begins at the margin; not in java, nor in rust, where it cannot be mistaken for a variable of its body.
    """
    last_use = max(text.rfind(name) for name in names)
    for first, token in enumerate(tokens):
        at_margin = token.start == 0 or text[token.start - 1] == "\n" or grammar in (JAVA, RUST)
        if not token.fresh or not at_margin or token.start > last_use:
            continue
        item = item_at(grammar, text, tokens, first)
        if item is not None and ("" in names or not item.names.isdisjoint(names)) and _has_body(item):
            return item
    return None


def _has_body(item: Item) -> bool:
    return "{" in item.text or "=>" in item.text


def _continued(grammar: Grammar, base: str, text: str, depth: int) -> str:
    """What is kept of a completion that goes on with base."""
    tokens = list(scan(grammar, text))
    if grammar is JAVA:
        return brace_java.continued(base, text, tokens, depth)
    end = closing(tokens, depth)
    if end is None:
        return text
    kept = text[:tokens[end].end]
    if grammar in (JS, CPP) and re.match(r"[ \t]*;", text[tokens[end].end:]):
        kept += ";"
    return kept + "".join(f"\n\n{part}" for part in followers(grammar, base, text, tokens, end + 1))


def _depth(tokens: Sequence[Token]) -> int:
    return sum({"{": 1, "}": -1}.get(token.text, 0) for token in tokens)


def _anew(grammar: Grammar, base: str, found: Answer, names: Sequence[str]) -> str:
    """An answer that stands by itself, behind those imports and helpers of base and of other blocks that it lacks."""
    text = found.text
    tokens = list(scan(grammar, text))
    entry = _definition(grammar, text, tokens, names)
    before = [item for item in outline(grammar, text, tokens, margin=True) if item.end <= entry.start]
    before = [item for item in before if not item.names & grammar.never_kept]
    words = words_of(text, tokens[:entry.after])
    defined = {name for item in (*before, entry) for name in item.names}
    after = used(following(grammar, text, tokens, entry.after)[0], grammar, words, defined)
    answer = [*_elsewhere(grammar, found.others, [*before, entry, *after]), *before, entry, *after]
    last = begun(grammar, base)
    head = [item for item in outline(grammar, base, list(scan(grammar, base))) if last is None or item.end <= last.start]
    own = {name for item in answer if not item.owner for name in item.names}
    head = [item for item in head if item.paths or not item.names & own]
    parts = [part for item in head if (part := rendered(item, own))]
    parts += [re.sub(r"\Aexport\s+(default\s+)?", "", item.text) for item in answer]
    return "\n\n".join(_go_imports(parts) if grammar is GO else parts)


def _elsewhere(grammar: Grammar, others: Sequence[str], answer: Sequence[Item]) -> list[Item]:
    """The definitions of other blocks that an answer uses and does not have."""
    items = [item for other in others for item in outline(grammar, other, list(scan(grammar, other)), margin=True)]
    words = {word for item in answer for word in item.words}
    return used([item for item in items if item.closed and item.names], grammar, words,
                {name for item in answer for name in item.names})


def _go_imports(parts: list[str]) -> list[str]:
    """Go's parts with each package imported once, before all else, and only if it is used."""
    code = [part for part in parts if not re.match(r"import\b|package\b", part)]
    found = [match for part in parts if re.match(r"import\b", part)
             for match in GO_IMPORT.findall(part.removeprefix("import"))]
    lines = {f"{name.strip()} {path}".strip(): name.strip() or path.strip("\"`").split("/")[-1] for name, path in found}
    words = {token.text for part in code for token in scan(GO, part) if token.kind == "word"}
    kept = [line for line, name in lines.items() if name in words or name in "._"]
    return [*(["import (\n" + "".join(f"    {line}\n" for line in kept) + ")"] if kept else []), *code]

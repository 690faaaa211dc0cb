"""Finds the definitions of a text in cpp, java, go, rust or js, and those among them that others use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_ft.evaluation.brace_grammars import GO, Grammar, Token, scan

WORD = re.compile(r"[^\W\d][\w$]*|\$[\w$]*")
DEFINED = re.compile(r"#\s*define\s+(\w+)")
DEPTH = {"open": 1, "close": -1}
ENDS_LINE = frozenset(["word", "number", "text", "close"])  # the last token of a line that may end a statement
JOINS = (".", "?", ":", "+", "=", "&", "|", ",")  # the first token of a line that goes on with a statement (JavaScript)
HALF_DIRECTIVE = re.compile(r"#[ \t]*[a-z]*")
SPECIFIER = "static|inline|const|constexpr|extern|unsigned|long|template|typedef|struct|public|private|protected|final|abstract"
SENTENCE = re.compile(rf"(?!(?:{SPECIFIER})\b)[^\w\s\"'({{\[]*\w+(?:[^\S\n]+\w+){{3}}|[^\n]*(?:[.!?](?:\s|\Z)|:\n)")


@dataclass(frozen=True)
class Item:
    """One definition, import or directive."""

    text: str
    start: int
    end: int
    after: int
    """The index of the first token behind it."""
    names: frozenset[str]
    """What it defines; empty where it defines no name (an import of everything)."""
    owner: str
    """What it belongs to: the type of an `impl` or a method that stands by itself."""
    paths: tuple[tuple[str, str], ...]
    """Rust's `use`: name and path."""
    words: frozenset[str]
    """What it may use."""
    closed: bool
    """Its end is there."""

    @property
    def key(self) -> str:
        """Two items of this text and kind cannot stand in one program."""
        return re.sub(r"\s+", "", self.text.partition("{")[0])


def item_at(grammar: Grammar, text: str, tokens: Sequence[Token], first: int) -> Item | None:
    """The definition that begins with a token; None if none does."""
    start = tokens[first].start
    if tokens[first].kind == "directive":
        name = DEFINED.match(tokens[first].text)
        return _item(text, tokens, first, first + 1, {"name": name[1]} if name else {}, closed=True)
    for by_block, patterns in ((True, grammar.blocks), (False, grammar.lines)):
        for pattern in patterns:
            match = pattern.match(text, start)
            if match:
                after, closed = _end(grammar, text, tokens, first, by_block)
                return _item(text, tokens, first, after, match.groupdict(), closed=closed)
    return None


def is_undecided(grammar: Grammar, text: str, tokens: Sequence[Token], first: int) -> bool:
    """Whether what begins with a token is no definition yet, but may become one when more is written."""
    token, rest = tokens[first], text[tokens[first].start:]
    if "\n\n" in rest or _has_head(tokens[first:]) or rest.startswith("##"):
        return False
    if rest == "/":  # a comment begins, with a definition behind it
        return True
    if grammar.keywords:
        half_written = rest == token.text and any(keyword.startswith(rest) for keyword in grammar.keywords)
        return half_written or token.text in grammar.keywords
    if HALF_DIRECTIVE.fullmatch(rest):
        return True
    return (token.kind == "word" or token.text == "@") and not SENTENCE.match(rest)


def following(grammar: Grammar, text: str, tokens: Sequence[Token], first: int) -> tuple[list[Item], bool]:
    """The definitions that follow each other from a token on, and whether what is no definition ends them."""
    items = []
    while first < len(tokens):
        if tokens[first].text == ";":
            first += 1
            continue
        item = item_at(grammar, text, tokens, first)
        if item is None:
            return items, not is_undecided(grammar, text, tokens, first)
        items.append(item)
        first = item.after
    return items, False


def outline(grammar: Grammar, text: str, tokens: Sequence[Token], *, margin: bool = False) -> Iterator[Item]:
    """The definitions of a text at its outermost level; lines that begin none are left out.

    Args:
        margin: only those that begin in a line's first column.
    """
    first = 0
    while first < len(tokens):
        token = tokens[first]
        at_margin = token.start == 0 or text[token.start - 1] == "\n"
        item = item_at(grammar, text, tokens, first) if at_margin or not margin else None
        if item is not None:
            yield item
            first = item.after
        else:
            first += 1
            while margin and first < len(tokens) and not tokens[first].fresh:
                first += 1


def used(items: Sequence[Item], grammar: Grammar, words: set[str], defined: set[str]) -> list[Item]:
    """The items that words use, and those that these use; what is defined already is left out.

    Items without a name (imports of everything) stay where one that is kept follows them.
    """
    words, defined, keys = set(words), set(defined), set()
    waiting = {number: item for number, item in enumerate(items) if not item.names & grammar.never_kept}
    kept: set[int] = set()
    while wanted := [number for number, item in waiting.items() if (item.names | {item.owner}) & words]:
        item = waiting.pop(wanted[0])
        # Of an import's names some may be known; what else is known must not be defined again.
        known = item.names <= defined if item.paths else bool(item.names & defined)
        if known or item.key in keys:
            continue
        kept.add(wanted[0])
        keys.add(item.key)
        words |= item.words
        if not grammar.overloads:
            defined |= item.names
    neutral = {number for number, item in waiting.items() if not (item.names or item.owner or grammar.imports_first)}
    last = max(kept, default=-1)
    return [item for number, item in enumerate(items) if number in kept or number in neutral and number < last]


def followers(grammar: Grammar, base: str, text: str, tokens: Sequence[Token], first: int) -> list[str]:
    """The definitions behind an answer's function that it uses."""
    before = list(scan(grammar, base))
    known = [item for item in outline(grammar, base, before) if not item.owner]
    defined = {name for item in known for name in item.names}
    items, _ = following(grammar, text, tokens, first)
    words = words_of(base, before) | words_of(text, tokens[:first])
    return [rendered(item, defined) for item in used(items, grammar, words, defined)]


def rendered(item: Item, defined: set[str]) -> str:
    """An item's text; of an import in Rust only the names that are not imported yet."""
    if item.paths and any(name in defined for name, _ in item.paths):
        return "\n".join(f"use {path};" for name, path in item.paths if name not in defined)
    return item.text


def begun(grammar: Grammar, base: str) -> Item | None:
    """The definition that base leaves open."""
    items = list(outline(grammar, base, list(scan(grammar, base))))
    return items[-1] if items and not items[-1].closed else None


def head_of(grammar: Grammar, base: str) -> str:
    """The imports and helpers that stand before the function that base leaves open."""
    last = begun(grammar, base)
    return base[:last.start] if last is not None else ""


def words_of(text: str, tokens: Sequence[Token]) -> set[str]:
    """The words of tokens, those inside template literals and directives included."""
    found: set[str] = set()
    for token in tokens:
        if token.kind == "word":
            found.add(token.text)
        elif token.kind == "directive" or token.text.startswith("`"):
            found.update(WORD.findall(token.text))
    return found


def closing(tokens: Sequence[Token], depth: int, first: int = 0) -> int | None:
    """The index of the brace that closes the outermost of `depth` open ones; None if none does."""
    for index in range(first, len(tokens)):
        depth += {"{": 1, "}": -1}.get(tokens[index].text, 0)
        if depth == 0:
            return index
    return None


def flattened(tree: str, before: str = "") -> Iterator[tuple[str, str]]:
    """The names that a tree of Rust's `use` binds, each with its path.

    >>> dict(flattened("std::{cmp::{max, self}, io::Read as R, fmt::*}"))
    {'max': 'std::cmp::max', 'cmp': 'std::cmp', 'R': 'std::io::Read as R', '*': 'std::fmt::*'}
    """
    tree = " ".join(tree.split())
    head, brace, inside = tree.partition("{")
    if not brace:
        path = before + tree
        path = path.removesuffix("::self")
        yield re.split(r"::|\s", path)[-1], path
        return
    depth, start = 0, 0
    inside = inside.rstrip().removesuffix("}") + ","
    for at, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            if inside[start:at].strip():
                yield from flattened(inside[start:at].strip(), before + head)
            start = at + 1


def _item(text: str, tokens: Sequence[Token], first: int, after: int, groups: dict[str, str | None], *, closed: bool) -> Item:
    start, end = tokens[first].start, tokens[after - 1].end
    paths = tuple(flattened(groups["used"])) if groups.get("used") else ()
    names = {name for group in ("name", "names") for name in WORD.findall(groups.get(group) or "")}
    names |= {name for name, _ in paths if name not in "*_"}
    return Item(text[start:end], start, end, after, frozenset(names), groups.get("owner") or "", paths,
                frozenset(words_of(text, tokens[first:after])), closed)


def _end(grammar: Grammar, text: str, tokens: Sequence[Token], first: int, by_block: bool) -> tuple[int, bool]:
    """The index behind a definition's last token, and whether that is surely its last."""
    depth = 0
    for index in range(first, len(tokens)):
        token = tokens[index]
        by_line = grammar.newline_ends and not by_block and depth == 0 and index > first
        if by_line and _is_over(grammar, tokens[index - 1], token):
            return index, True
        depth += DEPTH.get(token.kind, 0)
        if depth < 0:  # the end of what is around it
            return index, True
        if depth == 0 and (token.text == ";" or by_block and token.text == "}"):
            return index + 1, True
    by_line = grammar.newline_ends and not by_block and depth == 0 and tokens[-1].kind in ENDS_LINE
    # In JavaScript the next line may still go on with the statement.
    return len(tokens), by_line and text[tokens[-1].end:].count("\n") > (0 if grammar is GO else 1)


def _has_head(tokens: Sequence[Token]) -> bool:
    """Whether a brace or a semicolon ends what would be the head of a definition."""
    depth = 0
    for token in tokens:
        if depth == 0 and token.text in "{;":
            return True
        depth += DEPTH.get(token.kind, 0) if token.text in "()" else 0
    return False


def _is_over(grammar: Grammar, last: Token, token: Token) -> bool:
    """Whether a line's end between two tokens ends a statement, in languages where it may."""
    return token.fresh and last.kind in ENDS_LINE and (grammar is GO or token.text not in JOINS)

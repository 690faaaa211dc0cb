"""How a completion becomes a Python program: it goes on with what was begun, or is an answer of its own, in fences or words.

Whatever can be parsed is read as Python; the rules for lines serve where nothing can.
"""

from __future__ import annotations

import builtins
import re
import textwrap
from collections.abc import Sequence

from megatron_ft.evaluation.chat_answers import Block, cleaned, fenced, unquoted
from megatron_ft.evaluation.languages.python_statements import Statement, is_python, is_stub, parsed, statements

DEFINITION = re.compile(r"(?:async\s+)?def\s|class\s")
TOP_LEVEL = re.compile(r"(?:async\s+)?def\s|class\s|import\s|from\s+\S+\s+import\b|[@#)\]}]|\w+\s*(?::[^=]*)?=(?!=)")
NAMED = re.compile(r"(?:(?:async\s+)?def|class)\s+(\w+)\s*[(:\[]|(\w+)\s*(?::[^=\n]*)?=[^=]")
HALF_WRITTEN = re.compile(r"[@#].*|\w+\s*(?::[^=]*)?=?|(?:async|async\s+def|def|class|import|from)(?:\s.*)?", re.DOTALL)
FENCE_END = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*\Z", re.MULTILINE)
HEADER = "def begun():"
MARGIN = re.compile(r"\n(?=\S)")
KNOWN = frozenset(dir(builtins)) | {"__name__", "__file__"}


def assemble(base: str, completion: str, entry_point: str, *, quoted: str = "") -> str:
    """The program of a completion of `base`.

    Args:
        quoted: code that the question gave and that an answer may repeat before it corrects it.
    """
    text = cleaned(completion)
    _, blocks = fenced(text)
    body, behind = _body(text)
    if _goes_on(text, body):
        return _continued(base, body, behind)
    defining = [block for block in unquoted(blocks, quoted) if defines(block.text, entry_point)]
    head = before_entry(base, entry_point)
    if defining:
        chosen = _best(defining, entry_point)
        return _anew(head, chosen.text, entry_point, [block.text for block in blocks if block is not chosen])
    if defines(text, entry_point):
        return _anew(head, text, entry_point, [])
    for block in blocks:
        inside = textwrap.indent(block.text, "    ")
        if is_python(f"{HEADER}\n{inside}") and block.text.strip():
            return _continued(base, f"\n{inside}", "")
    return _continued(base, body, behind)


def is_complete(completion: str, entry_point: str) -> bool:
    """Whether whatever is written next would be cut off.

    Asked after every few tokens: what ends an answer begins at the margin of its last lines, so the rest costs little.
    """
    text = cleaned(completion)
    body, behind = _body(text)
    if _goes_on(text, body):
        return bool(behind.strip()) and _is_over(body, behind)
    if not FENCE_END.search(text.rstrip()):
        return False
    closed = [block for block in fenced(text)[1] if block.closed and defines(block.text, entry_point)]
    # One that may repeat the question's code is no end, nor one that needs what another block may still bring.
    whole = [block for block in closed if _stands_alone(block.text, entry_point)]
    return len(whole) > 1 or any(not block.may_quote for block in whole)


def before_entry(base: str, entry_point: str) -> str:
    """The imports and helpers that stand before the entry point in the problem's own text."""
    found = list(re.finditer(rf"^(?:async )?def {re.escape(entry_point)}\b", base, re.MULTILINE))
    return base[: found[-1].start()] if found else ""


def defines(text: str, entry_point: str) -> bool:
    """Whether a function, or a name for one, is defined at the margin."""
    name = re.escape(entry_point)
    return re.search(rf"^(?:(?:async )?def {name}\b|{name}\s*(?::[^=\n]*)?=[^=])", text, re.MULTILINE) is not None


def _goes_on(text: str, body: str) -> bool:
    """Whether a completion goes on with the function that base began."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first[:1].isspace():
        return not first
    nodes = parsed(HEADER + body)
    if isinstance(nodes, str):
        # A chat's first word may follow a space; a body is indented by more, and may end in the middle.
        return re.match(r"\n* \S", text) is None
    return not is_stub(nodes[0].body) or not text[len(body):].strip()


def _body(text: str) -> tuple[str, str]:
    """A completion up to the first line at the margin that is in no string and no bracket, and what follows.

    Its first line still belongs to the line that it goes on with.
    """
    ends = [found.start() for found in MARGIN.finditer(text)]
    for end in ends[:50]:
        if is_python(HEADER + text[:end]):
            return text[:end], text[end + 1:]
    end = ends[0] if ends else len(text)
    return text[:end], text[end + 1:]


def _continued(base: str, body: str, behind: str) -> str:
    """`base` with its body, and those definitions behind it that it uses."""
    begun = base.rstrip()
    if not is_python(begun + body) and "\t" in body:
        # The docstring of base is indented by spaces, with which tabs cannot be mixed.
        spaced = re.sub(r"^[ \t]+", lambda found: found[0].expandtabs(4), body, flags=re.MULTILINE)
        body = spaced if is_python(begun + spaced) else body
    program = begun + body.rstrip() + "\n"
    needed = set(Statement(program, parsed(program)).needs) if is_python(program) else set()
    followers = _used(_definitions(behind), needed, set())
    return program + "".join(f"\n\n{each.text.rstrip()}\n" for each in followers)


def _is_over(body: str, behind: str) -> bool:
    """Whether what stands behind a body shows that nothing of it will be used."""
    nodes = parsed(HEADER + body)
    if isinstance(nodes, str):  # a text may go on at the margin, a bracket may close there, a mistake stays one
        return "triple-quoted" not in nodes and behind.lstrip()[:1] not in ")]}"
    needed = set(Statement(HEADER + body, nodes).needs)
    found = list(statements(behind))
    for number, each in enumerate(found):
        name = NAMED.match(each.text)
        if name is not None and (name[1] or name[2]) not in needed:
            return True
        if number == len(found) - 1:
            return name is None and HALF_WRITTEN.fullmatch(each.text.rstrip()) is None
        if not each.is_definition:
            return True
        needed |= each.needs
    return False


def _definitions(text: str) -> list[Statement]:
    """The definitions, imports and assignments that follow each other at the beginning of a text."""
    found = []
    for each in statements(text):
        if not each.is_definition:
            break
        found.append(each)
    return found


def _used(found: Sequence[Statement], needed: set[str], defined: set[str]) -> list[Statement]:
    """Those of them that define what is needed and not defined yet, and what these need."""
    kept: set[int] = set()
    needed = set(needed)
    while True:
        new = [number for number, each in enumerate(found) if number not in kept and each.defines & needed - defined]
        if not new:
            return [each for number, each in enumerate(found) if number in kept]
        kept.add(new[0])
        defined = defined | found[new[0]].defines
        needed |= found[new[0]].needs


def _best(blocks: Sequence[Block], entry_point: str) -> Block:
    """The first block whose function is whole: it can be parsed and is more than a stub."""
    whole = [block for block in blocks if any(each.defines_function(entry_point) and not _is_stub(each, entry_point)
                                              for each in statements(block.text))]
    return (whole or blocks)[0]


def _is_stub(found: Statement, entry_point: str) -> bool:
    return any(is_stub(node.body) for node in found.nodes or () if getattr(node, "name", None) == entry_point)


def _stands_alone(text: str, entry_point: str) -> bool:
    """Whether a block has a whole entry point and defines all that it needs."""
    found = [each for each in statements(text) if each.nodes]
    entry = [each for each in found if each.defines_function(entry_point) and not _is_stub(each, entry_point)]
    return bool(entry) and not set().union(*(each.needs for each in found)) - KNOWN - _defined(found)


def _anew(head: str, text: str, entry_point: str, others: Sequence[str]) -> str:
    """An answer of its own behind the imports and helpers of base: all of it that prepares, its function, what that uses."""
    found = list(statements(text))
    first = next((number for number, each in enumerate(found) if each.defines_function(entry_point)), None)
    if first is None:
        return head + _top_level(text)
    last = first
    for number in range(first + 1, len(found)):
        if found[number].nodes is None:
            break
        last = number if found[number].defines_function(entry_point) else last  # the last definition is the one that holds
    before = [each for number, each in enumerate(found[:last])
              if (each.is_harmless(entry_point) if number < first else each.binds)]
    kept = [*before, found[last]]
    needed, defined = set().union(*(each.needs for each in kept)), _defined(kept)
    behind = _used([each for each in found[last + 1:] if each.binds], needed, defined)
    needed, defined = needed.union(*(each.needs for each in behind)), defined | _defined(behind)
    known = KNOWN | _defined(list(statements(head)))
    elsewhere = _used([each for other in others for each in statements(other) if each.binds], needed, defined | known)
    program = [*elsewhere, *kept, *behind]
    future = [each.text for each in program if each.is_of_the_future]
    text = "\n".join(each.text for each in program if not each.is_of_the_future)
    return "".join(f"{line.strip()}\n" for line in future) + head + text.strip("\n").rstrip() + "\n"


def _defined(found: Sequence[Statement]) -> set[str]:
    return set().union(*(each.defines for each in found))


def _top_level(text: str) -> str:
    """A text up to the first line at the margin that defines nothing; words before the first code are left out."""
    kept: list[str] = []
    for line in text.split("\n"):
        if line.strip() and not line[0].isspace() and not TOP_LEVEL.match(line):
            if any(DEFINITION.match(known) for known in kept):
                break
            kept.clear()
        else:
            kept.append(line)
    return "\n".join(kept).rstrip() + "\n"

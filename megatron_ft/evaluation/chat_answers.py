"""What chat models put around code, in every language: thoughts, fences, the ends of lines and turns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

FENCE = re.compile(r"^[ \t]*(?:>[ \t]?)?(```+|~~~+)[^\n`]*$", re.MULTILINE)
QUOTED_MARK = re.compile(r"^[ \t]*>[ \t]?", re.MULTILINE)
THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A.*?^[^\n]*</think>[ \t]*$", re.DOTALL | re.MULTILINE)
# A text between bars ends a turn wherever it ends a line; what is also HTML does only at the end of all.
END_OF_TURN = re.compile(
    r"(?:<\|(?:im_end|endoftext|end_of_text|eot_id|end|end_of_turn|eom_id|return)\|>|<｜end▁of▁sentence｜>)[ \t]*(?:\n.*)?\Z"
    r"|(?:</s>|<end_of_turn>|<eos>)\s*\Z", re.DOTALL)
ABOUT_A_FAULT = re.compile(
    r"\b(?:bugs?|buggy|original|incorrect|wrong|faulty|broken|problem|issue|error|given|current|your)\b", re.IGNORECASE)


class Block(NamedTuple):
    """A fenced block."""

    text: str
    """Its lines, without what they are all indented by."""
    closed: bool
    """Its closing fence is there."""
    before: str
    """The words between the block before it, or the answer's beginning, and its fence."""

    @property
    def may_quote(self) -> bool:
        """Whether the words before it may announce code that is about to be corrected."""
        return ABOUT_A_FAULT.search(self.before) is not None


def cleaned(completion: str) -> str:
    r"""An answer without thoughts, a byte order mark, carriage returns, and the texts that end a turn.

    >>> cleaned("\ufeff<think>\nif a:\r\n</think>\nx = '</s>'\r\n<|im_end|>\n<|im_start|>user")
    "\nx = '</s>'\n"
    """
    text = completion.replace("\r\n", "\n").replace("\ufeff", "")
    text = THOUGHT.sub("", text, count=1) if "think" in text else text
    return END_OF_TURN.sub("", text, count=1) if ">" in text else text


def fenced(text: str) -> tuple[str, list[Block]]:
    """What stands before the first fence, and the fenced blocks.

    >>> fenced("So:\\n1. ```py\\nx\\n")[1]
    []
    >>> fenced("So:\\n   ~~~py\\n   x\\n   ~~~")
    ('So:\\n', [Block(text='x\\n', closed=True, before='So:\\n')])
    """
    fences = list(FENCE.finditer(text))
    if not fences:
        return text, []
    blocks, at, begun = [], 0, 0
    while at < len(fences):
        mark = fences[at][1]
        end = next((i for i in range(at + 1, len(fences)) if _closes(fences[i], mark)), None)
        stop = fences[end].start() if end is not None else len(text)
        inside = text[fences[at].end() + 1:stop]
        if ">" in fences[at][0].partition(mark)[0]:
            inside = QUOTED_MARK.sub("", inside)
        blocks.append(Block(textwrap.dedent(inside), end is not None, text[begun:fences[at].start()]))
        at = len(fences) if end is None else end + 1
        begun = len(text) if end is None else fences[end].end()
    return text[:fences[0].start()], blocks


def _closes(fence: re.Match[str], mark: str) -> bool:
    return fence[1].startswith(mark) and fence[0].strip(" \t>") == fence[1]


def unquoted(blocks: Sequence[Block], quoted: str) -> list[Block]:
    """The blocks, those last that hold code which the question gave: an answer often repeats it before it corrects it."""
    known = _squeezed(quoted).rstrip("}")
    return sorted(blocks, key=lambda block: bool(known) and known in _squeezed(block.text))


def _squeezed(text: str) -> str:
    return "".join(text.split())

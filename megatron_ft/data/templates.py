"""How an example is worded. Training data and evaluation prompts are rendered by the same functions, here.

For every template the first training segment is exactly `prompt(inputs)`; whitespace between prompt and answer belongs
to the answer, because a prompt is stripped before a model sees it and the model then has to write that whitespace.
"""

from __future__ import annotations

import abc

from megatron_ft.data.example import Example, Mark, Segment
from megatron_ft.errors import ConfigError


class Template(abc.ABC):
    """The wording of one kind of prompt and of the answer that follows it."""

    name: str

    def prompt(self, inputs: str, *, answer_start: str = "") -> str:
        """The text a model is prompted with, without whitespace at its ends.

        Args:
            answer_start: the beginning of the answer that the model has to go on with (HumanEvalPack's `base`).
        """
        return self._prompt(inputs, answer_start).strip()

    def segments(self, example: Example) -> list[Segment]:
        """The example as training text: the prompt, then the answer, closed by the end-of-text token."""
        question, answer_turn = example.turns
        prompt = Segment((self.prompt(question.text),), supervised=False)
        answer = Segment((self._separator(example) + answer_turn.text, Mark.END), supervised=True)
        return [prompt, answer] if prompt.text else [answer]

    @abc.abstractmethod
    def _prompt(self, inputs: str, answer_start: str) -> str:
        """The prompt before it is stripped."""

    @abc.abstractmethod
    def _separator(self, example: Example) -> str:
        """What stands between the stripped prompt and the answer."""


class OctoCoder(Template):
    r"""OctoCoder's: `Question: {inputs}`, an empty line, `Answer: {outputs}`.

    An answer that begins on a line of its own follows `Answer:` without the space, so that code learnt from data is in
    the very place where HumanEvalPack's prompt asks for it:

    >>> OctoCoder().prompt("Add 1 to x.", answer_start="def f(x):\n")
    'Question: Add 1 to x.\n\nAnswer:\ndef f(x):'
    >>> [segment.text for segment in OctoCoder().segments(Example.pair("Add 1 to x.", "\ndef f(x):\n    return x + 1"))]
    ['Question: Add 1 to x.\n\nAnswer:', '\ndef f(x):\n    return x + 1']
    >>> [segment.text for segment in OctoCoder().segments(Example.pair("What is 1 + 1?", "2"))]
    ['Question: What is 1 + 1?\n\nAnswer:', ' 2']
    """

    name = "octocoder"

    def _prompt(self, inputs: str, answer_start: str) -> str:
        return f"Question: {inputs}\n\nAnswer:\n{answer_start}"

    def _separator(self, example: Example) -> str:
        return "" if example.turns[-1].text.startswith(("\n", "\r\n")) else " "


class Instruct(Template):
    r"""The instruction, an empty line, the answer.

    >>> Instruct().prompt("Add 1 to x.", answer_start="def f(x):\n")
    'Add 1 to x.\n\ndef f(x):'
    >>> [segment.text for segment in Instruct().segments(Example.pair("What is 1 + 1?", "2"))]
    ['What is 1 + 1?', '\n\n2']
    """

    name = "instruct"

    def _prompt(self, inputs: str, answer_start: str) -> str:
        return f"{inputs}\n\n{answer_start}"

    def _separator(self, example: Example) -> str:
        return "\n\n"


class Plain(Template):
    r"""No wording: a text and its continuation. An evaluation prompt is the beginning of the answer alone.

    >>> Plain().prompt("Add 1 to x.", answer_start="def f(x):\n")
    'def f(x):'
    >>> [segment.text for segment in Plain().segments(Example.pair("def f(x):\n", "    return x + 1"))]
    ['def f(x):', '\n    return x + 1']
    """

    name = "plain"

    def _prompt(self, inputs: str, answer_start: str) -> str:
        return answer_start or inputs

    def _separator(self, example: Example) -> str:
        return example.turns[0].text[len(example.turns[0].text.rstrip()):]


TEMPLATES: dict[str, Template] = {
    "octocoder": OctoCoder(),
    "instruct": Instruct(),
    "plain": Plain(),
    "continue": Plain(),  # the name that public HumanEvalPack runs use for it
}


def get(name: str) -> Template:
    """The template of that name; ConfigError names the known ones."""
    if name not in TEMPLATES:
        raise ConfigError(f"template: '{name}' is unknown; use one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]

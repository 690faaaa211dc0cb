"""How an example is worded. Training data and evaluation prompts are rendered by the same functions, here.

For every template the first training segment of one instruction is exactly `prompt(instruction)`. Whitespace between a
prompt of text and its answer belongs to the answer, because such a prompt is stripped before a model sees it and the
model then has to write that whitespace; a prompt that ends with what a chat model expects (`<|im_start|>assistant` and
a line break) keeps it.

Every answer ends with what makes a model stop there: the end-of-text token, or the template's own end of a turn; the
last answer of a document always ends with the end-of-text token (`render` writes it once where the two are the same).
Later turns of a template of text follow the end-of-text token after an empty line. A template that has no place for a
system prompt puts it in front of the first instruction, with an empty line between.
"""

from __future__ import annotations

from pathlib import Path

from megatron_ft.data.example import Example, Mark, Part, RowError, Segment, Special, Turn
from megatron_ft.data.template import Template, TextTemplate, TurnTemplate, filled, said
from megatron_ft.errors import ConfigError

LINE_BREAKS = ("\n", "\r\n")


class OctoCoder(TextTemplate):
    r"""OctoCoder's: `Question: {instruction}`, what it is about, an empty line, `Answer: {answer}`.

    An answer that begins on a line of its own follows `Answer:` without the space, so that code learnt from data is in
    the very place where HumanEvalPack's prompt asks for it:

    >>> OctoCoder().prompt("Add 1 to x.", answer_start="def f(x):\n").text
    'Question: Add 1 to x.\n\nAnswer:\ndef f(x):'
    >>> [segment.text for segment in OctoCoder().segments(Example.pair("Add 1 to x.", "\ndef f(x):\n    return x + 1"))]
    ['Question: Add 1 to x.\n\nAnswer:', '\ndef f(x):\n    return x + 1']
    >>> [segment.text for segment in OctoCoder().segments(Example.pair("What is 1 + 1?", "2"))]
    ['Question: What is 1 + 1?\n\nAnswer:', ' 2']
    """

    name = "octocoder"

    def _question(self, asked: Turn, *, answer_start: str, opens: bool) -> str:
        return f"Question: {said(asked)}\n\nAnswer:\n{answer_start}"

    def _separator(self, asked: Turn, answered: Turn) -> str:
        return "" if answered.text.startswith(LINE_BREAKS) else " "


class Instruct(TextTemplate):
    r"""The instruction, after what it is about, an empty line, the answer.

    >>> Instruct().prompt("Add 1 to x.", answer_start="def f(x):\n").text
    'Add 1 to x.\n\ndef f(x):'
    >>> [segment.text for segment in Instruct().segments(Example.pair("What is 1 + 1?", "2"))]
    ['What is 1 + 1?', '\n\n2']
    """

    name = "instruct"

    def _question(self, asked: Turn, *, answer_start: str, opens: bool) -> str:
        instruction = f"{asked.context}\n{asked.text}" if asked.context else asked.text
        return f"{instruction}\n\n{answer_start}"

    def _separator(self, asked: Turn, answered: Turn) -> str:
        return "\n\n"


class Plain(TextTemplate):
    r"""No wording: a text and its continuation, or a bare text. An evaluation prompt is the beginning of the answer alone.

    >>> Plain().prompt("Add 1 to x.", answer_start="def f(x):\n").text
    'def f(x):'
    >>> [segment.text for segment in Plain().segments(Example.pair("def f(x):\n", "    return x + 1"))]
    ['def f(x):', '\n    return x + 1']
    """

    name = "plain"

    def segments(self, example: Example) -> list[Segment]:
        if example.bare_text is not None:
            return [Segment((example.bare_text, Mark.END), supervised=True)]
        return super().segments(example)

    def _question(self, asked: Turn, *, answer_start: str, opens: bool) -> str:
        return answer_start or said(asked)

    def _separator(self, asked: Turn, answered: Turn) -> str:
        text = said(asked)
        return text[len(text.rstrip()):]


class Alpaca(TextTemplate):
    r"""Stanford Alpaca's two wordings, with and without an input; a line break, then the answer.

    Later turns have no preamble. The line break is the answer's, as the prompt ends with `### Response:`.

    >>> [segment.text for segment in Alpaca().segments(Example.pair("Add.", "3", context="1, 2"))]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['Below is an instruction that describes a task, paired with an input that provides further context. Write a response
    that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:', '\n3']
    """

    name = "alpaca"

    def _question(self, asked: Turn, *, answer_start: str, opens: bool) -> str:
        paired = ", paired with an input that provides further context" if asked.context else ""
        preamble = (f"Below is an instruction that describes a task{paired}. Write a response that appropriately completes "
                    "the request.\n\n") if opens else ""
        about = f"### Input:\n{asked.context}\n\n" if asked.context else ""
        return f"{preamble}### Instruction:\n{asked.text}\n\n{about}### Response:\n{answer_start}"

    def _separator(self, asked: Turn, answered: Turn) -> str:
        return "" if answered.text.startswith(LINE_BREAKS) else "\n"


class Commit(TurnTemplate):
    r"""StarCoder's commits: the file before, the message, the file after. One exchange; other examples are refused.

    >>> Commit().prompt("Rename x to y", context="x = 1\n", answer_start="y").text
    '<commit_before>x = 1\n<commit_msg>Rename x to y<commit_after>y'
    >>> [segment.text for segment in Commit().segments(Example.pair("Rename x to y", "y = 1\n", context="x = 1\n"))]
    ['<commit_before>x = 1\n<commit_msg>Rename x to y<commit_after>', 'y = 1\n']
    """

    name = "commit"
    specials = ("<commit_before>", "<commit_msg>", "<commit_after>")

    def segments(self, example: Example) -> list[Segment]:
        answers = sum(turn.role == "assistant" for turn in example.turns)
        if answers > 1:
            raise RowError("more than one exchange", f"{example.source}: has {answers} exchanges, template 'commit' has a "
                           "place for one; use a template of conversations, such as octocoder or chatml")
        return super().segments(example)

    def _ask(self, asked: Turn, *, system: str, opens: bool) -> tuple[Part, ...]:
        message = f"{system}\n\n{asked.text}" if system else asked.text
        before, msg, after = map(Special, self.specials)
        return before, *filled(asked.context), msg, message, after

    def _answer(self, asked: Turn, answered: Turn) -> tuple[Part, ...]:
        return answered.text, Mark.END


class ChatML(TurnTemplate):
    r"""ChatML: each turn between `<|im_start|>` with its role and `<|im_end|>`; no system prompt where the data has none.

    >>> [segment.text for segment in ChatML().segments(Example.pair("What is 1 + 1?", "2"))]
    ['<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n', '2<|im_end|>']
    """

    name = "chatml"
    specials = ("<|im_start|>", "<|im_end|>")

    def _ask(self, asked: Turn, *, system: str, opens: bool) -> tuple[Part, ...]:
        start, end = map(Special, self.specials)
        before = (start, f"system\n{system}", end, "\n") if system else ()
        return (*filled("" if opens else "\n"), *before, start, f"user\n{said(asked)}", end, "\n", start, "assistant\n")

    def _answer(self, asked: Turn, answered: Turn) -> tuple[Part, ...]:
        return answered.text, Special("<|im_end|>")


class Llama2(TurnTemplate):
    r"""LLaMA 2's: `[INST]` around an instruction, the system prompt inside the first; texts are stripped, as published.

    Each exchange is opened and closed like a text of its own; the space in front of the closing token is published too.

    >>> Llama2().prompt("Add 1 to x.", answer_start="def f(x):\n").text
    '[INST] Add 1 to x. [/INST] def f(x):'
    >>> [segment.text for segment in Llama2().segments(Example((
    ...     Turn("system", "Be brief."), Turn("user", "What is 1 + 1?"), Turn("assistant", "2"))))]
    ['[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is 1 + 1? [/INST]', ' 2 ']
    """

    name = "llama2"

    def prompt(self, instruction: str, *, context: str = "", answer_start: str = "") -> Segment:
        return super().prompt(instruction, context=context, answer_start=f" {answer_start}")

    def _ask(self, asked: Turn, *, system: str, opens: bool) -> tuple[Part, ...]:
        about = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
        text = f"[INST] {(about + said(asked)).strip()} [/INST]"
        return (text,) if opens else (Mark.BEGIN, text)  # `render` opens the document

    def _answer(self, asked: Turn, answered: Turn) -> tuple[Part, ...]:
        return f" {answered.text.strip()} ", Mark.END


class Llama3(TurnTemplate):
    r"""LLaMA 3's: each turn after a header with its role, closed by `<|eot_id|>`; texts are stripped, as published.

    >>> [segment.text for segment in Llama3().segments(Example.pair("What is 1 + 1?", "2"))]  # doctest: +NORMALIZE_WHITESPACE
    ['<|start_header_id|>user<|end_header_id|>\n\nWhat is 1 + 1?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
     '2<|eot_id|>']
    """

    name = "llama3"
    specials = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

    def _ask(self, asked: Turn, *, system: str, opens: bool) -> tuple[Part, ...]:
        start, end, eot = map(Special, self.specials)
        before = (start, "system", end, f"\n\n{system.strip()}", eot) if system else ()
        return (*before, start, "user", end, f"\n\n{said(asked).strip()}", eot, start, "assistant", end, "\n\n")

    def _answer(self, asked: Turn, answered: Turn) -> tuple[Part, ...]:
        return answered.text.strip(), Special("<|eot_id|>")


TEMPLATES: dict[str, Template] = {
    "octocoder": OctoCoder(),
    "instruct": Instruct(),
    "plain": Plain(),
    "continue": Plain(),  # the name that public HumanEvalPack runs use for it
    "alpaca": Alpaca(),
    "commit": Commit(),
    "starcodercommit": Commit(),  # their name for it too
    "chatml": ChatML(),
    "llama2": Llama2(),
    "llama3": Llama3(),
}
NAMES = (*TEMPLATES, "chat")
"""`chat` is the tokenizer's own chat template."""


def get(name: str, *, tokenizer_path: str | Path | None = None) -> Template:
    """The template of that name; ConfigError names the known ones.

    Args:
        tokenizer_path: the tokenizer (see `tokenizer.load`) that must have the special tokens which the template writes,
            DataError names those that it lacks; and whose chat template `chat` is.
    """
    if name not in NAMES:
        raise ConfigError(f"template: '{name}' is unknown; use one of {', '.join(NAMES)}")
    if name == "chat":
        from megatron_ft.data import chat_template  # which loads the tokenizer and Jinja

        if tokenizer_path is None:
            raise ConfigError("template: 'chat' is a tokenizer's own chat template, and no tokenizer is named; name one, or "
                              f"use one of {', '.join(TEMPLATES)}")
        return chat_template.load(tokenizer_path)
    template = TEMPLATES[name]
    if template.specials and tokenizer_path is not None:
        from megatron_ft.data import tokenizer

        template.check(tokenizer.load(tokenizer_path))
    return template

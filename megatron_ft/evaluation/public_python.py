"""The rules of the public harnesses for HumanEval, MBPP and EvalPlus' versions of them, faults included.

Written from the behaviour of bigcode-evaluation-harness (bigcode_eval/tasks/humaneval.py, mbpp.py, humanevalplus.py,
mbppplus.py) and, for EvalPlus' own files, of evalplus (codegen.py, provider/, sanitize.py). `fixed` mode does without.
"""

from __future__ import annotations

from megatron_ft.evaluation.problem import KINDS, Problem
from megatron_ft.evaluation.public_extraction import extracted
from megatron_ft.evaluation.scenarios import Task

STOPS = {"humaneval": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>", "<|endoftext|>"),
         "mbpp": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```", "<|endoftext|>")}
EVALPLUS_STOPS = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(")
CONTINUED_STOPS = {"humaneval": ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "), "mbpp": ('\n"""', "\nassert")}
CHAT_STOP = "\n```\n"
CHAT_ASKS = "Please provide a self-contained Python script that solves the following problem in a markdown code block:"
CHAT_ANSWERS = "Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:"
CHAT = "chat"


def prompt(problem: Problem) -> str:
    """What a model that only continues text is prompted with, to the byte: whitespace at its end decides the next token."""
    if problem.inputs:
        return f"{problem.prompt.strip()}\n"
    return problem.prompt if problem.written_anew else problem.prompt.strip()


def chat(problem: Problem) -> tuple[str, str]:
    """What EvalPlus says to a model with a chat template, and how it lets the answer begin."""
    return f"{CHAT_ASKS}\n```\n{problem.prompt.strip()}\n```\n", f"{CHAT_ANSWERS}\n```python\n"


def stops(problem: Problem, style: str) -> tuple[str, ...]:
    """Strings that end an answer wherever they stand in it."""
    family = KINDS[problem.kind].base or problem.kind
    if not problem.inputs:
        return STOPS[family]
    return (*EVALPLUS_STOPS, *((CHAT_STOP,) if style == CHAT else CONTINUED_STOPS[family]))


def is_complete(asked: Task, answer: str, style: str) -> bool:
    """Whether the harness stops generating here."""
    return any(stop in answer for stop in stops(asked.problem, style))


def program(asked: Task, answer: str, style: str) -> str:
    """The program of an answer: the prompt and the answer up to the first stop; by EvalPlus what its extraction finds there."""
    for stop in stops(asked.problem, style):
        answer = answer.partition(stop)[0]
    if not asked.problem.inputs:
        return prompt(asked.problem) + answer
    answer = answer.replace("\t", "    ")
    return extracted(answer if style == CHAT else prompt(asked.problem) + answer, asked.problem.entry_point)


def source(program: str, test: str) -> str:
    """The one file that is executed: a program and tests. What MBPP's tests need beside them is not run there."""
    return f"{program}\n\n{test}"

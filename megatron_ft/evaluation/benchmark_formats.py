"""From the rows of a benchmark's file to its problems. Which benchmark it is, is read off the fields of the first row."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace

from megatron_ft.errors import DataError
from megatron_ft.evaluation.problem import Problem

MAY_BE_EMPTY = ("docstring", "example_test", "bug_type", "failure_symptoms", "instruction", "signature", "import", "test_setup",
                "test_setup_code", "assertion")
OF_PACK = {"import" if field.name == "imports" else field.name: field for field in fields(Problem)
           if field.name not in ("kind", "base_test", "inputs")}
"""HumanEvalPack's fields; `import` is a keyword of Python."""
OUTPUTS_OF_EVALPLUS = re.compile(r"^\s*results = ", re.MULTILINE)
"""In a test that EvalPlus wrote."""
DOCSTRING = r"\s*(?:\"\"\"|''')(.*?)(?:\"\"\"|''')"


@dataclass(frozen=True)
class Format:
    """How one benchmark's rows look."""

    title: str
    shown_by: tuple[str, ...]
    """Fields that together tell its rows from those of the formats below it."""
    texts: tuple[str, ...]
    """Fields that are texts."""
    problem: Callable[[Mapping, str], Problem]
    """Makes the problem of a row that has these fields; its place is for errors."""
    lists: tuple[str, ...] = ()
    """Fields that are lists; those named test_... are of texts."""

    numbers: tuple[str, ...] = ()
    """Fields that are numbers from 0 on."""

    @property
    def needed(self) -> tuple[str, ...]:
        """The fields of a row."""
        return tuple(dict.fromkeys(("task_id", *self.texts, *self.lists, *self.numbers)))


def recognized(row: Mapping, place: str) -> Format:
    """The format of a file from its first row; DataError lists what is known."""
    for known in FORMATS:
        if all(name in row for name in known.shown_by):
            return known
    listed = "; ".join(f"{known.title} ({', '.join(known.shown_by)})" for known in FORMATS)
    raise DataError(f"{place}: the fields {', '.join(map(str, row))} are those of no benchmark that is known here, which are "
                    f"told by: {listed}")


def problem(form: Format, row: Mapping, place: str) -> Problem:
    """The problem of a row; DataError with the first field that is not as it must be."""
    for name in form.needed:
        if name not in row:
            raise DataError(f"{place}: field '{name}' is missing; {form.title}'s are {', '.join(form.needed)}")
    for name in form.texts:
        _require_text(row[name], f"{place}: field '{name}'", name in MAY_BE_EMPTY)
    for name in form.lists:
        if not isinstance(row[name], list):
            raise DataError(f"{place}: field '{name}' is a {type(row[name]).__name__}, not a list")
        for at, each in enumerate(row[name] if name.startswith("test_") else ()):
            _require_text(each, f"{place}: field '{name}', entry {at},", may_be_empty=False)
    for name in form.numbers:
        if isinstance(row[name], bool) or not isinstance(row[name], int | float) or row[name] < 0:
            raise DataError(f"{place}: field '{name}' is {row[name]!r}, not a number from 0 on")
    return form.problem(row, place)


def _require_text(value: object, where: str, may_be_empty: bool) -> None:
    if not isinstance(value, str):
        raise DataError(f"{where} is a {type(value).__name__}, not a string")
    if not value.strip() and not may_be_empty:
        raise DataError(f"{where} is empty")


def _of_pack(row: Mapping, place: str) -> Problem:
    given = {}
    for name, field in OF_PACK.items():
        if name in row:
            _require_text(row[name], f"{place}: field '{name}'", name in MAY_BE_EMPTY)
            given[field.name] = row[name]
    return Problem(**given)


def _of_humaneval(row: Mapping, place: str) -> Problem:
    kind = "humanevalplus" if OUTPUTS_OF_EVALPLUS.search(row["test"]) else "humaneval"
    return _begun(row, place, kind, test=f"{row['test'].rstrip()}\n\ncheck({row['entry_point']})\n")


def _of_mbpp(row: Mapping, place: str) -> Problem:
    return _described(row, place, "mbpp", row.get("text") or row["prompt"], row["code"], _defined(row, place))


def _of_mbppplus_on_the_hub(row: Mapping, place: str) -> Problem:
    made = _of_mbpp(row, place)
    return replace(made, kind="mbppplus", base_test=made.test, test=row["test"])


def _of_evalplus(row: Mapping, place: str) -> Problem:
    """Both of EvalPlus' files have the same fields; in HumanEval+ the prompt begins the function."""
    for name in ("base_input", "plus_input"):
        wrong = next((at for at, given in enumerate(row[name]) if not isinstance(given, list)), None)
        if wrong is not None:
            raise DataError(f"{place}: field '{name}', entry {wrong}, is no list of arguments")
    name = row["entry_point"]
    if re.search(rf"^def {re.escape(name)}\b", row["prompt"], re.MULTILINE):
        return replace(_begun(row, place, "humanevalplus", test=""), inputs=_inputs(row, None))
    number = _task_id(row, place).rpartition("/")[2]
    text = re.sub(r'^\s*"""\s*|\s*"""\s*$', "", row["prompt"])
    made = _described({"test_list": [], **row}, place, "mbppplus", text, row["canonical_solution"], name, prompt=row["prompt"])
    return replace(made, inputs=_inputs(row, int(number) if number.isdecimal() else None))


def _inputs(row: Mapping, number: int | None) -> str:
    """What a problem keeps of its inputs; `number` says how arguments are to be read (`python_inside/shapes.py`)."""
    return json.dumps({"base": row["base_input"], "plus": row["plus_input"], "atol": row["atol"], "number": number})


def _begun(row: Mapping, place: str, kind: str, *, test: str) -> Problem:
    """A problem whose prompt is the beginning of its function, worded as HumanEvalPack words it."""
    name, prompt = row["entry_point"], row["prompt"]
    begins = list(re.finditer(rf"^def ({re.escape(name)}\b.*?):[ \t]*$", prompt, re.MULTILINE | re.DOTALL))
    if not begins:
        raise DataError(f"{place}: field 'prompt' does not begin the function '{name}' of field 'entry_point'")
    signature = begins[-1][1]
    described = re.search(DOCSTRING, prompt[begins[-1].end():], re.DOTALL)
    docstring = "\n".join(line.strip() for line in (described[1] if described else "").split("\n") if line.strip())
    return Problem(
        task_id=_task_id(row, place), prompt=prompt, declaration=prompt, canonical_solution=row["canonical_solution"],
        buggy_solution="", bug_type="", failure_symptoms="", entry_point=name, signature=signature, docstring=docstring,
        instruction=f"Write a Python function `{signature}` to solve the following problem:\n{docstring}", test=test,
        example_test="", kind=kind)


def _described(row: Mapping, place: str, kind: str, text: str, code: str, name: str, *, prompt: str = "") -> Problem:
    """A problem whose prompt describes a function and shows a test of it."""
    shown = f"\n{row['test_list'][0]}" if row["test_list"] else ""
    imports = row.get("test_imports")
    setup = "\n".join(imports if imports is not None else []) or row.get("test_setup_code") or ""
    prompt = prompt or f'"""\n{text}{shown}\n"""\n'
    return Problem(
        task_id=_task_id(row, place), prompt=prompt, declaration=prompt,
        canonical_solution=code.replace("\r\n", "\n"), buggy_solution="", bug_type="", failure_symptoms="", entry_point=name,
        signature=name, docstring=text, instruction=f"{text}{shown}", test="\n".join(row["test_list"]), example_test="",
        test_setup=setup.replace("\r\n", "\n"), kind=kind)


def _defined(row: Mapping, place: str) -> str:
    """The function that MBPP's tests call: the one of the solution's that the first of them names first."""
    if not row["test_list"]:
        raise DataError(f"{place}: field 'test_list' is empty")
    try:
        defined = {node.name for node in ast.parse(row["code"]).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        called = [node.func.id for node in ast.walk(ast.parse(row["test_list"][0].strip()))
                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{place}: field 'code' or the first test of 'test_list' is no Python: {error}") from error
    for name in called:
        if name in defined:
            return name
    raise DataError(f"{place}: the first test of 'test_list', {row['test_list'][0]!r}, calls none of the functions that 'code' "
                    f"defines ({', '.join(sorted(defined)) or 'none'})")


def _task_id(row: Mapping, place: str) -> str:
    """MBPP's files have numbers; EvalPlus calls the same problems Mbpp/11."""
    task_id = row["task_id"]
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        return f"Mbpp/{task_id}"
    _require_text(task_id, f"{place}: field 'task_id'", may_be_empty=False)
    return task_id


FORMATS = (
    *(Format("HumanEvalPack", (name,), tuple(name for name, field in OF_PACK.items() if field.default is MISSING), _of_pack)
      for name in ("buggy_solution", "declaration")),  # a row that lacks one of them is not HumanEval's
    Format("EvalPlus", ("base_input", "plus_input"), ("prompt", "canonical_solution", "entry_point"), _of_evalplus,
           lists=("base_input", "plus_input"), numbers=("atol",)),
    Format("HumanEval", ("prompt", "canonical_solution", "entry_point", "test"),
           ("prompt", "canonical_solution", "entry_point", "test"), _of_humaneval),
    Format("MBPP", ("text", "code", "test_list"), ("text", "code"), _of_mbpp, lists=("test_list",)),
    Format("MBPP+", ("prompt", "code", "test_list", "test"), ("prompt", "code", "test"), _of_mbppplus_on_the_hub,
           lists=("test_list",)),
    Format("sanitized MBPP", ("prompt", "code", "test_list"), ("prompt", "code"), _of_mbpp, lists=("test_list",)),
)

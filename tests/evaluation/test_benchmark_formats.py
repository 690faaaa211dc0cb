"""Which benchmark a file holds, what becomes of its rows, and every row that is not as it must be."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pyarrow
import pytest
from pyarrow import parquet

from megatron_ft import log
from megatron_ft.errors import DataError
from megatron_ft.evaluation import benchmark
from tests.evaluation import benchmark_files as files

KINDS = {"HUMANEVAL": "humaneval", "MBPP": "mbpp", "SANITIZED": "mbpp", "HUMANEVALPLUS": "humanevalplus",
         "MBPPPLUS": "mbppplus", "HUB_HUMANEVALPLUS": "humanevalplus", "HUB_MBPPPLUS": "mbppplus"}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_told_by_its_fields(tmp_path: Path, name: str) -> None:
    found = benchmark.read(files.write(tmp_path / "whatever.txt", getattr(files, name)))
    assert found.kind.name == KINDS[name]
    assert {problem.kind for problem in found.problems} == {KINDS[name]}


def _lines(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[list], bytes]] = {
    "lines": _lines, "list": lambda rows: json.dumps(rows, indent=1).encode(), "gzip": lambda rows: gzip.compress(_lines(rows)),
    "parquet": _parquet}


@pytest.mark.parametrize("form", WRITERS)
def test_a_file_s_form_is_read_off_its_content(tmp_path: Path, form: str) -> None:
    path = tmp_path / "sanitized.jsonl"
    path.write_bytes(WRITERS[form](files.SANITIZED))
    first, second = benchmark.read(path).problems
    assert (first.task_id, first.test_setup) == ("Mbpp/14", "import math")
    assert first.test == "assert math.isclose(volume(1.5), 3.375)"
    assert (second.task_id, second.entry_point, second.test_setup) == ("Mbpp/16", "count", "")
    assert second.prompt == '"""\nWrite a function to count.\nassert count([1, 2]) == 2\n"""\n'


def test_humaneval_is_worded_as_humanevalpack_is(tmp_path: Path) -> None:
    first, second, _ = benchmark.read(files.write(tmp_path / "file", files.HUMANEVAL)).problems
    assert first.instruction == ("Write a Python function `half(numbers: List[float]) -> List[float]` to solve the following "
                                 "problem:\nEach of the numbers by two.\n>>> half([1.0])\n[0.5]")
    assert first.test.endswith("    assert candidate([]) == []\n\ncheck(half)\n")
    assert (second.signature, second.docstring) == ("decode(text)", "What was encoded.")


def test_the_instructions_of_humaneval_are_those_of_humanevalpack(humanevalpack: Path, tmp_path: Path) -> None:
    """But for 115, where HumanEvalPack takes an import for a part of the signature, and 142, whose docstring it mended."""
    pack = benchmark.read(humanevalpack).problems
    rows = [{"task_id": f"HumanEval/{at}", "prompt": each.prompt, "canonical_solution": each.canonical_solution,
             "entry_point": each.entry_point, "test": each.test} for at, each in enumerate(pack)]
    found = benchmark.read(files.write(tmp_path / "file", rows)).problems
    assert [here.task_id for here, there in zip(found, pack, strict=True) if here.instruction != there.instruction] == [
        "HumanEval/115", "HumanEval/142"]


def test_the_function_of_mbpp_is_the_one_that_its_tests_call(tmp_path: Path) -> None:
    found = benchmark.read(files.write(tmp_path / "file", files.MBPP[1:4])).problems
    assert [problem.entry_point for problem in found] == ["add_one", "depth", "round_up"]
    assert found[0].test == "assert add_one([1, 2]) == [2, 3]\nassert add_one([]) == []\nassert add_one([-1]) == [0]"


def test_of_mbpp_the_test_split_is_asked_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write(tmp_path / "file", files.MBPP)
    said = []
    monkeypatch.setattr(log.get(), "info", said.append)
    found = benchmark.find(str(path), ["python"])["python"]
    assert [problem.task_id for problem in found.problems] == ["Mbpp/11", "Mbpp/12", "Mbpp/510"]
    assert found.note == "the test split, 3 of 5 tasks (those from 11 to 510)"
    assert said == [f"{path}: {found.note}", f"{path}: the tests of Mbpp/12 make objects of the program's own classes, so that "
                    "these programs are judged in one box with their tests"]
    with pytest.raises(DataError, match=r"has no Mbpp/2; its ids run from Mbpp/11 to Mbpp/510 \(the test split, 3 of 5"):
        benchmark.select(found, problems="Mbpp/2")
    training = benchmark.read(files.write(tmp_path / "training", files.MBPP[4:]))
    assert ([problem.task_id for problem in training.problems], training.note) == (["Mbpp/601"], "")


def test_only_tests_that_make_the_program_s_own_objects_share_its_process(tmp_path: Path) -> None:
    found = benchmark.read(files.write(tmp_path / "file", files.MBPP))
    assert [problem.task_id for problem in found.problems if problem.shares_objects] == ["Mbpp/12"]


def test_the_hub_s_tests_of_mbppplus_are_two(tmp_path: Path) -> None:
    (problem,) = benchmark.read(files.write(tmp_path / "file", files.HUB_MBPPPLUS)).problems
    assert problem.base_test == files.SANITIZED[0]["test_list"][0]
    assert problem.test == files.HUB_MBPPPLUS[0]["test"]


def test_evalplus_inputs_are_kept_with_the_number_that_says_what_they_mean(tmp_path: Path) -> None:
    half, zero, _ = benchmark.read(files.write(tmp_path / "one", files.HUMANEVALPLUS)).problems
    assert json.loads(half.inputs) == {"base": [[[1.0, 3.0]], [[]]], "plus": [[[0.1]], [[1e300, -7.0]], [[2**70]]], "atol": 0,
                                       "number": None}
    assert json.loads(zero.inputs)["atol"] == 0.0001
    similar = benchmark.read(files.write(tmp_path / "two", files.MBPPPLUS)).problems[0]
    assert json.loads(similar.inputs)["number"] == 2
    assert similar.instruction == "Write a function to find what two tuples share.\nassert similar_elements((3,), (3,))"


def changed(rows: list, at: int = 1, *, without: str = "", **changes: object) -> list:
    """Rows of which one has other values."""
    row = {name: value for name, value in {**rows[at], **changes}.items() if name != without}
    return [*rows[:at], row, *rows[at + 1:]]


@pytest.mark.parametrize(("rows", "message"), [
    ([{"task_id": "a", "question": "b"}], r":1: the fields task_id, question are those of no benchmark that is known here, "
                                          r"which are told by: HumanEvalPack .*; HumanEval \(prompt, canonical_solution"),
    (changed(files.HUMANEVAL, without="test"), r":2: field 'test' is missing; HumanEval's are task_id, prompt, canonical"),
    (changed(files.HUMANEVAL, test=["assert 1"]), r":2: field 'test' is a list, not a string"),
    (changed(files.HUMANEVAL, entry_point="other"), r":2: field 'prompt' does not begin the function 'other' of field 'entry"),
    (changed(files.HUMANEVAL, task_id="HumanEval/0"), r":2: 'task_id' HumanEval/0 is also on line 1"),
    (changed(files.HUMANEVAL, task_id=None), r":2: field 'task_id' is a NoneType, not a string"),
    (changed(files.MBPP, without="code"), r":2: field 'code' is missing; MBPP's are task_id, text, code, test_list"),
    (changed(files.MBPP, test_list=[]), r":2: field 'test_list' is empty"),
    (changed(files.MBPP, test_list="assert 1"), r":2: field 'test_list' is a str, not a list"),
    (changed(files.MBPP, test_list=["assert add_one(1)", 3]), r":2: field 'test_list', entry 1, is a int, not a string"),
    (changed(files.MBPP, test_list=["assert other(1)"]), r":2: the first test of 'test_list', 'assert other\(1\)', calls none "
                                                         r"of the functions that 'code' defines \(add_one, helper\)"),
    (changed(files.MBPP, code="def f(:"), r":2: field 'code' or the first test of 'test_list' is no Python: "),
    (changed(files.HUMANEVALPLUS, plus_input=[[1], 2]), r":2: field 'plus_input', entry 1, is no list of arguments"),
    (changed(files.HUMANEVALPLUS, base_input={}), r":2: field 'base_input' is a dict, not a list"),
    (changed(files.HUMANEVALPLUS, atol="0"), r":2: field 'atol' is '0', not a number from 0 on"),
    (changed(files.MBPPPLUS, without="atol"), r":2: field 'atol' is missing; EvalPlus's are task_id, prompt, canonical"),
])
def test_a_row_that_is_not_as_it_must_be_is_named(tmp_path: Path, rows: list, message: str) -> None:
    with pytest.raises(DataError, match=f"file.jsonl{message}"):
        benchmark.read(files.write(tmp_path / "file.jsonl", rows))


def test_a_row_that_lacks_a_field_of_humanevalpack_is_none_of_humaneval(tmp_path: Path, write_benchmark) -> None:
    from tests.evaluation.problems import make_problem

    path = write_benchmark(make_problem())
    row = json.loads(path.read_text())
    for name in ("declaration", "buggy_solution"):
        files.write(path, [{each: value for each, value in row.items() if each != name}])
        with pytest.raises(DataError, match=f":1: field '{name}' is missing; HumanEvalPack's are"):
            benchmark.read(path)


@pytest.mark.parametrize(("data", "message"), [
    (gzip.compress(b'{"a": 1}\n' * 100)[:-9], "cannot be unpacked: .*; was it copied whole"),
    (b"PAR1 and nothing more", "cannot be read as Parquet: .*; was it copied whole"),
    (b'[{"task_id": 1},\n {"task_id": ]', "not JSON: Expecting value"),
    (b'[{"task_id": 1}, 2]', "row 0: the fields task_id are those of no benchmark"),
], ids=["gzip cut off", "not Parquet", "not JSON", "no benchmark"])  # a name from the bytes would hold gzip's time of writing
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"file: {message}"):
        benchmark.read(path)


def test_other_languages_than_python_are_refused(tmp_path: Path) -> None:
    path = files.write(tmp_path / "file", files.HUMANEVAL)
    with pytest.raises(DataError, match="holds HumanEval, whose problems are in python, but --language is rust"):
        benchmark.find(str(path), ["rust"])


def test_the_hub_s_files_are_fetched_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "test-00000-of-00001.parquet").write_bytes(_parquet(files.MBPP[1:2]))
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download",
                        lambda name, **options: asked.append(options["allow_patterns"]) or str(tmp_path))
    found = benchmark.find("google-research-datasets/mbpp", ["python"])["python"]
    assert ([problem.task_id for problem in found.problems], asked) == (["Mbpp/11"], [["full/test-*.parquet"]])
    with pytest.raises(DataError, match="openai/openai_humaneval on the hub has 0 files .*/test-.*, not one; copy the"):
        benchmark.find("openai/openai_humaneval", ["python"])

"""Rows that hold a problem are dropped however it is laid out; ordinary code is not."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ft.curation.benchmark_index import BenchmarkIndex, Settings
from megatron_ft.curation.decontaminate import Search, run, show
from megatron_ft.data.input_files import Chunk, Position
from megatron_ft.errors import ConfigError, DataError
from tests.curation.small_rows import read_rows, write_rows
from tests.data.shared import DATA, SFT_ROWS, needs_data

HUMANEVALPACK = DATA / "humanevalpack"
SOLUTION = """    total = 0
    for number, weight in zip(numbers, weights):
        if weight > threshold:
            total += number * weight
    return total / max(1, len(numbers))
"""
DEF = "def weigh(numbers, weights, threshold):\n"
LONG = {"task_id": "Made/0", "signature": "weigh(numbers, weights, threshold)", "prompt": DEF, "declaration": DEF,
        "canonical_solution": SOLUTION, "buggy_solution": SOLUTION.replace("number * weight", "number"),
        "docstring": "Give the mean of all numbers whose weight lies above the threshold, each times its weight.",
        "test": "assert weigh([1, 2, 3], [0.5, 0.25, 0.125], 0.2) == 1 / 3\nassert weigh([], [], 0) == 0\n"}
SHORT = {"task_id": "Made/1", "signature": "add_all(first: int, second: int) -> int", "docstring": "Add both.", "test": "",
         "canonical_solution": "    return first + second\n", "buggy_solution": "    return first\n",
         "prompt": "def add_all(first: int, second: int) -> int:\n    '''Add both.'''\n",
         "declaration": "def add_all(first: int, second: int) -> int:\n"}


@pytest.fixture
def benchmark(tmp_path):
    return write_rows(tmp_path / "benchmark.jsonl", [LONG, SHORT])


def found_in(path, *texts, **options):
    return [(hit.task_id, hit.field, hit.share) for hit in BenchmarkIndex(Settings((str(path),), **options)).find(texts)]


@pytest.mark.parametrize("text", [
    SOLUTION, SOLUTION.upper(), re.sub(r"\s+", " ", SOLUTION), SOLUTION.replace("    ", "\t"),
    "function weigh() {\n" + SOLUTION.replace(":\n", " {\n").replace("\n", ";\n") + "}",
    "Here it is:\n```python\n" + SOLUTION + "```\nDone.",
    SOLUTION.replace("    for", "    # one by one\n    for"), SOLUTION.replace("max(1, len(numbers))", "3"),
])
def test_a_solution_is_found_however_it_is_laid_out_and_partly_changed(benchmark, text):
    assert found_in(benchmark, "Please help.", text)[0][:2] == ("Made/0", "canonical_solution")


def test_a_docstring_and_a_test_are_found_in_any_comment(benchmark):
    comment = " * Give the mean of all NUMBERS whose weight lies\n * above the threshold, each times its weight.\n"
    assert found_in(benchmark, comment) == [("Made/0", "docstring", 1.0)]
    assert found_in(benchmark, LONG["test"].replace("assert", "expect"))[0][:2] == ("Made/0", "test")


def test_a_solution_of_three_words_counts_only_beside_its_signature(benchmark):
    assert found_in(benchmark, "def plus(first, second):\n    return first + second\n") == []
    assert found_in(benchmark, SHORT["declaration"] + SHORT["canonical_solution"]) == [("Made/1", "canonical_solution", 1.0)]
    index = BenchmarkIndex(Settings((str(benchmark),)))
    assert index.short == []
    alone = {key: value for key, value in SHORT.items() if key not in ("signature", "declaration", "prompt")}
    index = BenchmarkIndex(Settings((str(write_rows(benchmark, [LONG, alone])),)))
    assert [(each["field"], each["words"]) for each in index.short] == [
        ("canonical_solution", 3), ("buggy_solution", 2), ("docstring", 2)]


def test_a_few_words_in_common_are_no_hit(benchmark):
    assert found_in(benchmark, "total = 0\nfor number, weight in zip(numbers, weights):\n    print(number)\n") == []


def test_n_grams_do_not_reach_from_one_text_into_the_next(benchmark):
    words = LONG["docstring"].split()
    assert found_in(benchmark, *(" ".join(words[at:at + 4]) for at in range(0, len(words), 4))) == []


def test_the_report_says_what_was_found_where(benchmark, tmp_path, capsys):
    messages = [{"role": "user", "content": ["x", "So:\n" + SOLUTION]}]
    rows = [{"prompt": "a", "completion": "b"}, {"messages": messages}, {"n": 1}]
    path = write_rows(tmp_path / "in.jsonl", rows)
    report = run([str(path)], tmp_path / "out.jsonl", Settings((str(benchmark),)))
    assert read_rows(tmp_path / "out.jsonl") == [rows[0], rows[2]]
    assert report == json.loads((tmp_path / "out.jsonl.report.json").read_text())
    assert report["counts"] == {"rows": 3, "kept": 2, "dropped": 1, "bad": 0}
    assert report["hits"] == [{"row": f"{path}:2", "task_id": "Made/0", "field": "canonical_solution", "share": 1.0,
                               "text": SOLUTION.strip()[:-2], "problems": ["Made/0"]}]
    assert report["hits_by_problem"] == {"Made/0": 1} and report["benchmark"]["files"][0]["path"] == str(benchmark)
    show(report)
    shown = capsys.readouterr().out
    assert "in.jsonl:2" in shown and "Made/0" in shown and "2 of 3 rows kept (66.7%); 1 dropped" in shown


def test_any_number_of_workers_writes_the_same_bytes(benchmark, tmp_path):
    rows = [{"text": f"row {number} " * 400 + (SOLUTION if number % 50 == 7 else "")} for number in range(1000)]
    path = write_rows(tmp_path / "in.jsonl", rows)
    assert path.stat().st_size > 3 << 20
    written = []
    for workers in (1, 2, 3):
        report = run([str(path)], tmp_path / str(workers) / "out.jsonl", Settings((str(benchmark),)), workers=workers)
        written.append(((tmp_path / str(workers) / "out.jsonl").read_bytes(), report["hits"], report["counts"]))
    assert written[0] == written[1] == written[2]
    assert report["counts"] == {"rows": 1000, "kept": 980, "dropped": 20, "bad": 0}


texts = st.one_of(st.text(max_size=40), st.sampled_from([SOLUTION, LONG["test"], "return first + second"]), st.integers())


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.one_of(texts, st.dictionaries(st.text(max_size=3), st.one_of(texts, st.lists(texts, max_size=3)),
                                                      max_size=3)), max_size=5))
def test_every_row_is_kept_dropped_or_bad(tmp_path_factory, rows):
    benchmark = write_rows(tmp_path_factory.mktemp("rows") / "b.jsonl", [LONG, SHORT])
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    result = Search(Settings((str(benchmark),)), "skip")(Chunk("f", 1, data, False, len(data), Position(), ""))
    assert result.rows + len(result.bad) == len(rows)
    assert result.kept.count(b"\n") + len(result.hits) == result.rows == sum(isinstance(row, dict) for row in rows)


@pytest.mark.parametrize("options, message", [
    ({"ngram": 0}, "--ngram: 0 words are no n-gram"),
    ({"threshold": 0.0}, "--threshold: 0 is not above 0 and up to 1"),
    ({"min_words": 3}, "--min-words: 3 is below --ngram 5"),
])
def test_settings_that_cannot_work_are_refused(benchmark, options, message):
    with pytest.raises(ConfigError, match=message):
        BenchmarkIndex(Settings((str(benchmark),), **options))


@pytest.mark.parametrize("content, message", [
    ("", "--benchmark: .*b.jsonl holds no problem"),
    ("{", "--benchmark: .*b.jsonl:1: is no JSON"),
    ('{"task_id": 1, "text": "a", "code": "b"}', "b.jsonl has none of the fields canonical_.*; its own are task_id, text"),
    ('{"docstring": "Add."}', "--benchmark: no text of its 1 problems has 8 words; lower --min-words"),
])
def test_a_file_that_is_no_benchmark_is_refused(tmp_path, content, message):
    (tmp_path / "b.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        BenchmarkIndex(Settings((str(tmp_path / "b.jsonl"),)))


def test_a_missing_benchmark_is_named(tmp_path):
    with pytest.raises(DataError, match="--benchmark: .*gone.jsonl is no file"):
        BenchmarkIndex(Settings((str(tmp_path / "gone.jsonl"),)))


def test_another_benchmark_has_other_fields(tmp_path):
    tests = ["assert weigh([1, 2], [3, 4], 5) == 6", "assert weigh([], [], 0) == 0"]
    path = write_rows(tmp_path / "mbpp.jsonl", [{"task_id": 7, "code": SOLUTION, "test_list": tests}])
    assert found_in(path, SOLUTION, fields=("code", "test_list")) == [("7", "code", 1.0)]


@needs_data
class TestHumanEvalPack:
    """The real problems, all 164 of six languages."""

    @pytest.fixture(scope="class")
    def problems(self):
        return [row for path in sorted(HUMANEVALPACK.glob("*.jsonl")) for row in read_rows(path)]

    @pytest.fixture(scope="class")
    def index(self):
        return BenchmarkIndex(Settings((str(HUMANEVALPACK),)))

    def missed(self, index, problems, texts_of):
        return [problem["task_id"] for problem in problems
                if problem["task_id"] not in {hit.task_id for hit in index.find(texts_of(problem))}]

    def test_every_problem_is_caught_as_an_instruction_and_as_a_fix(self, index, problems):
        assert len(problems) == 984
        assert self.missed(index, problems, lambda one: [one["instruction"], one["prompt"] + one["canonical_solution"]]) == []
        assert self.missed(index, problems, lambda one: [one["declaration"] + one["buggy_solution"] + one["test"],
                                                         one["declaration"] + one["canonical_solution"]]) == []
        assert self.missed(index, problems, lambda one: [one["test"]]) == []

    def test_without_text_only_the_shortest_functions_pass(self, index, problems):
        short = {each["task_id"] for each in index.short if each["field"] == "canonical_solution"}
        assert len(short) == 13 and len(index.short) == 25
        for change in (str, str.upper, lambda text: re.sub(r"\s+", " ", text), lambda text: text.replace("{", "\n{\n")):
            assert set(self.missed(index, problems, lambda one, change=change: [
                change(one["declaration"] + one["canonical_solution"])])) == short

    def test_a_docstring_in_a_comment_is_caught_but_for_eight_of_few_words(self, index, problems):
        missed = self.missed(index, problems, lambda one: ["// " + one["docstring"].replace("\n", "\n// ")])
        assert len(missed) == 8 and all(name.startswith("Rust/") for name in missed)

    def test_changed_code_is_caught_while_the_docstring_is_there(self, index, problems):
        missed = self.missed(index, problems, lambda one: [one["docstring"], "def solve(x):\n    return my_own_solution(x)"])
        assert len(missed) == 8
        renamed = self.missed(index, problems, lambda one: [(one["prompt"] + one["canonical_solution"]).replace(
            one["entry_point"], "solve")])
        assert len(renamed) <= 30

    def test_of_1178_real_rows_one_holds_a_solution(self, tmp_path):
        """Row 672 is a Fibonacci program in C: Go/55's solution word for word. The nearest others have a quarter of one."""
        report = run([str(SFT_ROWS)], tmp_path / "out.jsonl", Settings((str(HUMANEVALPACK),)))
        assert [(hit["row"], hit["task_id"], hit["share"]) for hit in report["hits"]] == [(f"{SFT_ROWS}:672", "Go/55", 1.0)]
        lines = SFT_ROWS.read_bytes().splitlines(keepends=True)
        assert (tmp_path / "out.jsonl").read_bytes() == b"".join(lines[:671] + lines[672:]).rstrip(b"\n") + b"\n"

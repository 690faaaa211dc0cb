"""The whole command on HumanEval, MBPP and EvalPlus' versions: what it asks for, writes, reads, splits, joins and compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ft import evaluate as evaluate_command
from megatron_ft.errors import ConfigError, MegatronFTError
from megatron_ft.evaluation import compare, merge, report, settings
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.run import evaluate
from megatron_ft.evaluation.run_folder import FinishedRun
from tests.evaluation import benchmark_files as files
from tests.evaluation import tiny

RIGHT = {"half": "def half(numbers):\n    return [x / 2 for x in numbers]\n",
         "find_zero": "def find_zero(xs):\n    return -xs[0] / xs[1]\n", "first": "def first(items):\n    return items[0]\n"}
WEAK = "def half(numbers):\n    return [x / 2 if x < 9 else 0.0 for x in numbers]\n"  # right by the base tests


def run(benchmark: Path, output: Path, *more: str) -> dict:
    return evaluate(settings.parse(["--benchmark", str(benchmark), "--output", str(output), *more]))


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def plus(tmp_path: Path) -> Path:
    """HumanEval+ of three problems."""
    return files.write(tmp_path / "plus.jsonl", files.HUMANEVALPLUS)


def answers(path: Path, *programs: dict) -> Path:
    """A file as EvalPlus reads it: samples of the three problems."""
    ids = {row["entry_point"]: row["task_id"] for row in files.HUMANEVALPLUS}
    return files.write(path, [{"task_id": ids[name], "solution": text} for each in programs for name, text in each.items()])


def test_both_scores_of_evalplus_are_reported_everywhere(python: Python, plus: Path, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture) -> None:
    given = answers(tmp_path / "given.jsonl", RIGHT, {**RIGHT, "half": WEAK, "first": "x = 1\n"})
    result = run(plus, tmp_path / "out", "--generations", str(given))
    printed = capsys.readouterr().out
    assert [row["benchmark"] for row in result["scores"]] == ["HumanEval", "HumanEval+"]
    assert [(row["scenario"], row["problems"], row["samples"], row["bug_types"]) for row in result["scores"]] == [
        ("base", 3, 6, {}), ("synthesize", 3, 6, {})]
    base, whole = ({k: round(value, 4) for k, value in row["pass@k"].items()} for row in result["scores"])
    assert (base, whole) == ({"1": 0.8333, "2": 1.0}, {"1": 0.6667, "2": 1.0})
    assert result["benchmark"]["python"]["kind"] == "humanevalplus"
    results = rows(tmp_path / "out" / "results.jsonl")
    assert [(row["task_id"], row["base"], row["status"]) for row in results if row["sample"] == 1] == [
        ("HumanEval/0", "passed", "failed"), ("HumanEval/32", "passed", "passed"), ("HumanEval/2", "failed", "failed")]
    said = (tmp_path / "out" / "summary.md").read_text()
    assert said.startswith("# ") and ": HumanEval+, fixed mode\n" in said
    assert "| HumanEval | 83.3 (" in said and "| HumanEval+ | 66.7 (" in said and "\n## HumanEval+, Python\n" in said
    assert "benchmark" in printed and "HumanEval+" in printed and "0.6667" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<td>HumanEval</td><td>Python</td>" in page and "<td>HumanEval+</td><td>Python</td>" in page
    assert "; base tests: passed" in page and "bug: unknown" not in page and "type of bug" not in page


def test_what_other_harnesses_read_is_written_and_scores_the_same(python: Python, plus: Path, tmp_path: Path) -> None:
    given = answers(tmp_path / "given.jsonl", RIGHT, {**RIGHT, "half": WEAK})
    first = run(plus, tmp_path / "first", "--generations", str(given), "--mode", "compat")
    written = tmp_path / "first" / "harness"
    assert {path.name for path in written.iterdir()} == {
        "generations_humanevalplus.json", "evalplus_humanevalplus.jsonl", "evaluation_results.json"}
    figures = json.loads((written / "evaluation_results.json").read_text())
    assert {name: round(figures[name]["pass@1"], 4) for name in ("humaneval", "humanevalplus")} == {
        "humaneval": 1.0, "humanevalplus": 0.8333}
    assert figures["config"]["tasks"] == "humaneval,humanevalplus"
    assert rows(written / "evalplus_humanevalplus.jsonl")[1] == {"task_id": "HumanEval/0", "solution": WEAK}
    for name in ("generations_humanevalplus.json", "evalplus_humanevalplus.jsonl"):
        again = run(plus, tmp_path / name, "--generations", str(written / name), "--mode", "compat")
        assert again["scores"] == first["scores"], name
    ours = run(plus, tmp_path / "ours", "--generations", str(tmp_path / "first" / "samples.jsonl"), "--mode", "compat")
    assert ours["scores"] == first["scores"]


def test_shards_join_and_two_runs_compare_by_both_scores(python: Python, plus: Path, tmp_path: Path) -> None:
    given = [answers(tmp_path / "a.jsonl", {**RIGHT, "half": WEAK}), answers(tmp_path / "b.jsonl", RIGHT)]
    for part in ("0/2", "1/2"):
        run(plus, tmp_path / part[0], "--generations", str(given[0]), "--shard", part)
    joined = merge.merge([str(tmp_path / "1"), str(tmp_path / "0")], str(tmp_path / "joined"))
    assert {row["scenario"]: round(row["pass@k"]["1"], 4) for row in joined["scores"]} == {"base": 1.0, "synthesize": 0.6667}
    run(plus, tmp_path / "b", "--generations", str(given[1]))
    before, after = FinishedRun.read(tmp_path / "joined"), FinishedRun.read(tmp_path / "b")
    found = {each.scenario: [change.task_id for change in each.gained] for each in compare.compare(before, after)}
    assert found == {"base": [], "synthesize": ["HumanEval/0"]}
    said = compare.markdown(before, after, compare.compare(before, after))
    assert "| HumanEval | python | 3 |" in said and "HumanEval+, python, gained: HumanEval/0" in said
    whole = report.of_run(before)
    assert set(whole.problems) == {"HumanEval/0", "HumanEval/32", "HumanEval/2"}


def test_an_interrupted_run_goes_on_with_both_verdicts(python: Python, plus: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    given = answers(tmp_path / "given.jsonl", {**RIGHT, "half": WEAK})
    asked = (plus, tmp_path / "out", "--generations", str(given), "--fresh")
    with monkeypatch.context() as broken:
        broken.setattr(report, "write", None)
        with pytest.raises(TypeError):
            run(*asked)
    monkeypatch.setattr(Python, "check", lambda self: {})
    monkeypatch.setattr(Python, "judge", None)
    assert [round(row["pass@k"]["1"], 4) for row in run(*asked)["scores"]] == [1.0, 0.6667]


@pytest.mark.parametrize(("mode", "style"), [("fixed", "octocoder"), ("compat", "continue")])
def test_a_model_is_asked_without_a_scenario(python: Python, tmp_path: Path, mode: str, style: str) -> None:
    model = tiny.write(tmp_path / "model")
    path = files.write(tmp_path / "mbpp.jsonl", files.MBPP[1:2])
    result = run(path, tmp_path / "out", "--model", str(model), "--device", "cpu", "--mode", mode, "--max-new-tokens", "6")
    assert (result["settings"]["scenario"], result["settings"]["prompt_style"]) == ("synthesize", style)
    (sample,) = rows(tmp_path / "out" / "samples.jsonl")
    assert sample["program"].startswith('"""\nWrite a function to add one') is (mode == "compat")


def test_the_test_split_of_mbpp_is_named_in_what_is_written(python: Python, tmp_path: Path) -> None:
    path = files.write(tmp_path / "mbpp.jsonl", files.MBPP)
    result = run(path, tmp_path / "out", "--solutions", "canonical")
    assert result["scores"][0]["verdicts"]["passed"] == result["scores"][0]["problems"] == 3
    assert result["benchmark"]["python"]["note"] == "the test split, 3 of 5 tasks (those from 11 to 510)"
    assert "MBPP (the test split, 3 of 5 tasks" in (tmp_path / "out" / "summary.md").read_text()
    assert (tmp_path / "out" / "harness" / "generations_mbpp.json").is_file()


@pytest.mark.parametrize(("more", "message"), [
    (("--solutions", "canonical", "--scenario", "fixtests"), "--scenario: 'fixtests' is not in HumanEval .*, which has synth"),
    (("--solutions", "buggy"), "--solutions: HumanEval .* has no buggy solutions; use canonical"),
    (("--solutions", "canonical", "--language", "js"), "holds HumanEval, whose problems are in python, but --language is js"),
])
def test_what_a_benchmark_does_not_have_is_refused(tmp_path: Path, more: tuple, message: str) -> None:
    path = files.write(tmp_path / "file.jsonl", files.HUMANEVAL)
    with pytest.raises(MegatronFTError, match=message):
        run(path, tmp_path / "out", *more)


def test_humanevalpack_still_wants_a_scenario(write_benchmark, tmp_path: Path) -> None:
    from tests.evaluation.problems import make_problem

    with pytest.raises(ConfigError, match="--scenario: HumanEvalPack has several; name one or more of synthesize, fixtests"):
        run(write_benchmark(make_problem()), tmp_path / "out", "--solutions", "canonical")


HOSTILE = {
    "redefines what checks": "def half(numbers):\n    return 1\ndef check(candidate):\n    pass\n",
    "leaves before the tests": "import sys\nsys.exit(0)\n", "leaves at once": "import os\nos._exit(0)\n",
    "always agrees": "class Same:\n    def __eq__(self, other): return True\ndef half(numbers):\n    return Same()\n",
    "writes to its caller": "import sys\ndef half(numbers):\n    frame = sys._getframe()\n    while frame:\n"
                            "        frame.f_globals['check'] = lambda f: None\n        frame = frame.f_back\n    return []\n",
}


@pytest.mark.parametrize("mode", ["fixed", "compat"])
def test_programs_that_mean_no_good_fail_on_humaneval(python: Python, tmp_path: Path, mode: str) -> None:
    """In compat one passes, as in the harness: its value agrees with everything."""
    path = files.write(tmp_path / "file.jsonl", files.HUMANEVAL[:1])
    given = files.write(tmp_path / "given.jsonl", [{"task_id": "HumanEval/0", "solution": text} for text in HOSTILE.values()])
    run(path, tmp_path / "out", "--generations", str(given), "--mode", mode)
    results = rows(tmp_path / "out" / "results.jsonl")
    passed = [what for what, row in zip(HOSTILE, results, strict=True) if row["status"] == "passed"]
    assert passed == (["always agrees"] if mode == "compat" else [])


@pytest.mark.slow
def test_humaneval_rebuilt_from_humanevalpack(python: Python, humanevalpack: Path, tmp_path: Path) -> None:
    """Every canonical solution passes and no buggy one, in both modes."""
    pack = rows(humanevalpack)
    path = files.write(tmp_path / "file.jsonl", [
        {"task_id": f"HumanEval/{at}", **{name: row[name] for name in ("prompt", "canonical_solution", "entry_point")},
         "test": row["test"].rpartition("\ncheck(")[0] + "\n"} for at, row in enumerate(pack)])
    given = files.write(tmp_path / "buggy.jsonl", [
        {"task_id": f"HumanEval/{at}", "solution": row["prompt"] + row["buggy_solution"]} for at, row in enumerate(pack)])
    for mode in ("fixed", "compat"):
        right = run(path, tmp_path / f"right-{mode}", "--solutions", "canonical", "--mode", mode)
        assert right["scores"][0]["verdicts"]["passed"] == 164
        wrong = run(path, tmp_path / f"wrong-{mode}", "--generations", str(given), "--mode", mode, "--timeout-s", "3")
        assert wrong["scores"][0]["verdicts"]["passed"] == 0


def test_the_help_says_what_can_be_left_out() -> None:
    assert "selftest" in evaluate_command.ABOUT
    parsed = settings.parse(["--benchmark", "b", "--output", "o", "--solutions", "canonical"])
    assert (parsed.scenario, parsed.prompt_style) == ("", "")

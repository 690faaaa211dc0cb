"""Verdicts of earlier runs: used only where nothing that they depend on has changed."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ft.evaluation import case, scenarios, settings, verdict_cache
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.run import evaluate
from megatron_ft.evaluation.sandbox import Sandbox
from megatron_ft.evaluation.verdict import Verdict
from megatron_ft.evaluation.verdict_cache import Circumstances, VerdictCache
from tests.evaluation.problems import make_problem

HERE = Circumstances("python", "fixed", {"python": "3.11.7", "numpy": "2.0"}, Sandbox("bubblewrap", True), 0.0)
TASK = scenarios.task(make_problem(), "synthesize", "python")
FAILED = Verdict("failed", "AssertionError: a \ud800", 0.25, "said\n")


def reopened(cache: VerdictCache, circumstances: Circumstances = HERE) -> VerdictCache:
    cache.close()
    return VerdictCache(circumstances)


def test_a_verdict_comes_back_as_it_was() -> None:
    cache = VerdictCache(HERE)
    assert cache.get(TASK, "x") is None
    cache.put(TASK, "x", FAILED)
    again = reopened(cache)
    assert again.get(TASK, "x") == FAILED
    assert again.get(TASK, "y") is None


@pytest.mark.parametrize("changed", [
    {"language": "js"}, {"mode": "compat"}, {"toolchain": {"python": "3.11.8", "numpy": "2.0"}},
    {"sandbox": Sandbox("unshare", True)}, {"timeout_s": 3.0}])
def test_other_circumstances_have_other_verdicts(changed: dict) -> None:
    cache = VerdictCache(HERE)
    cache.put(TASK, "x", FAILED)
    assert reopened(cache, replace(HERE, **changed)).get(TASK, "x") is None


def test_another_evaluator_has_other_verdicts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "judge.py").write_text("one")
    (tmp_path / "inside" / "tests.js").write_text("two")
    monkeypatch.setattr(verdict_cache, "EVALUATOR", tmp_path)
    digest = verdict_cache.own_digest.__wrapped__
    before = digest()
    (tmp_path / "judge.pyc").write_text("compiled")
    assert digest() == before
    (tmp_path / "inside" / "tests.js").write_text("three")
    assert digest() != before


def test_each_thing_that_decides_is_part_of_the_key() -> None:
    of = {verdict_cache.key(task, program) for task, program in (
        (TASK, "x"), (TASK, "x "), (replace(TASK, base="other"), "x"),
        (replace(TASK, problem=make_problem(test="assert double(0) == 1")), "x"),
        (replace(TASK, problem=make_problem(task_id="Own/1")), "x"))}
    assert len(of) == 5
    assert verdict_cache.key(scenarios.task(make_problem(), "fixdocs", "python"), "x") in of


@pytest.mark.parametrize("verdict", [replace(FAILED, status="timeout"), replace(FAILED, reason=case.killed("it")[1])])
def test_what_another_machine_may_give_otherwise_is_not_kept(verdict: Verdict) -> None:
    cache = VerdictCache(HERE)
    cache.put(TASK, "x", verdict)
    assert cache.get(TASK, "x") is None
    assert reopened(cache).get(TASK, "x") is None


def test_runs_at_the_same_time_keep_both_their_verdicts_and_a_torn_line_is_passed_over(verdicts: Path) -> None:
    one, other = VerdictCache(HERE), VerdictCache(HERE)
    writers = [threading.Thread(target=lambda cache=cache, name=name: [
        cache.put(TASK, f"{name}{number}", FAILED) for number in range(50)]) for cache, name in ((one, "a"), (other, "b"))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    one.close()
    other.close()
    (file, _) = sorted(one.path.iterdir())
    file.write_bytes(file.read_bytes() + b'{"key": "0", "status"')
    (one.path / "foreign.jsonl").write_text('[1]\n{"key": "0"}\nno json\n')
    again = VerdictCache(HERE)
    assert all(again.get(TASK, f"{name}{number}") == FAILED for name in "ab" for number in range(50))
    assert again.get(TASK, "0") is None


def test_a_folder_that_cannot_be_written_is_said_once(verdicts: Path, caplog: pytest.LogCaptureFixture,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    (verdicts / "file").write_text("")
    monkeypatch.setenv(verdict_cache.VARIABLE, str(verdicts / "file" / "below"))
    said: list[str] = []
    monkeypatch.setattr(verdict_cache.log, "get", lambda: type("Log", (), {"warning": staticmethod(said.append)}))
    cache = VerdictCache(HERE)
    for program in ("x", "y"):
        cache.put(TASK, program, FAILED)
    assert cache.get(TASK, "x") == FAILED
    (line,) = said
    assert "verdicts are not kept for later runs" in line
    assert "name another folder in $MEGATRON_FT_VERDICTS" in line


def test_a_second_run_runs_nothing_unless_it_is_to(python: Python, write_benchmark, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = write_benchmark(make_problem(), make_problem(task_id="Own/1"))
    judged = []
    judge = Python.judge
    monkeypatch.setattr(Python, "judge", lambda self, problem, *rest: judged.append(problem.task_id)
                        or judge(self, problem, *rest))

    def run(output: str, *more: str) -> dict:
        judged.clear()
        return evaluate(settings.parse(["--benchmark", str(benchmark), "--output", str(tmp_path / output), "--scenario",
                                        "synthesize", "--solutions", "buggy", *more]))

    first = run("first")
    assert first["execution"] == {"distinct": 2, "cached": 0}
    assert {"Own/0", "Own/1"} <= set(judged)
    second = run("second")
    assert second["execution"] == {"distinct": 2, "cached": 2}
    assert not {"Own/0", "Own/1"} & set(judged)
    assert (tmp_path / "first/results.jsonl").read_bytes() == (tmp_path / "second/results.jsonl").read_bytes()
    assert run("third", "--fresh")["execution"] == {"distinct": 2, "cached": 0}
    assert {"Own/0", "Own/1"} <= set(judged)
    assert run("fourth", "--mode", "compat")["execution"]["cached"] == 0


def test_a_verdict_on_another_program_is_not_gone_on_with(python: Python, write_benchmark, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was interrupted, whose samples somebody has changed meanwhile."""
    benchmark = write_benchmark(make_problem(), make_problem(task_id="Own/1"))
    given = tmp_path / "given.jsonl"
    row = {"scenario": "synthesize", "language": "python", "sample": 0, "program": "def double(x):\n    return x * 3\n"}
    given.write_text("".join(json.dumps({"task_id": name, **row}) + "\n" for name in ("Own/0", "Own/1")))
    asked = ["--benchmark", str(benchmark), "--output", str(tmp_path / "out"), "--scenario", "synthesize",
             "--generations", str(given)]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("megatron_ft.evaluation.report.write", interrupted)
        evaluate(settings.parse(asked))
    partial = tmp_path / ".out.partial"
    assert (partial / "results.jsonl").read_text().count('"failed"') == 2
    rows = (partial / "samples.jsonl").read_text().splitlines(keepends=True)
    (partial / "samples.jsonl").write_text(rows[0] + rows[1].replace("x * 3", "x * 2"))
    result = evaluate(settings.parse(asked))
    assert result["scores"][0]["verdicts"]["passed"] == 1
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2

"""The commands that say whether verdicts can be trusted here: doctor and selftest."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_ft.errors import EvaluationError, MegatronFTError
from megatron_ft.evaluation import calibration, doctor, languages, selftest
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.problem import Problem
from megatron_ft.evaluation.verdict import Verdict
from tests.evaluation import benchmark_files as files
from tests.evaluation.problems import make_problem


def test_every_language_works_or_says_what_is_missing(python: Python, capsys: pytest.CaptureFixture) -> None:
    """In CI all must work: a language's own tests fail there without its toolchain."""
    code = doctor.command([])
    said = capsys.readouterr().out
    assert all(name in said for name in languages.LANGUAGES)
    assert (code == 0) == ("does not" not in said)


@pytest.mark.parametrize(("name", "package"), [
    ("js", "nodejs"), ("java", "openjdk-17-jdk-headless"), ("go", "golang-go"), ("cpp", "libboost-dev"),
    ("rust", "librust-md5-dev")])
def test_a_missing_toolchain_is_named_with_its_package(python: Python, monkeypatch: pytest.MonkeyPatch, name: str, package: str,
                                                       capsys: pytest.CaptureFixture) -> None:
    real = shutil.which
    tools = ("node", "javac", "go", "g++", "rustc")
    monkeypatch.setattr(shutil, "which", lambda tool, *more, **options: None if tool in tools else real(tool, *more, **options))
    assert doctor.command(["--language", name]) == 1
    assert package in capsys.readouterr().out.replace("\n", "")


def test_a_machine_as_fast_as_the_reference_gets_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= calibration.slowness(1) <= calibration.MOST
    monkeypatch.setattr(calibration, "REFERENCE_S", 1000.0)
    assert calibration.slowness(1) == 1
    monkeypatch.setattr(calibration, "REFERENCE_S", 1e-9)
    assert calibration.slowness(1) == calibration.MOST


def write(folder: Path, **changed: str) -> Path:
    (folder / "python.jsonl").write_text(json.dumps(asdict(make_problem(**changed))) + "\n")
    return folder


def test_solutions_that_are_as_they_should_be(python: Python, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert selftest.command(["--benchmark", str(write(tmp_path)), "--language", "python"]) == 0
    said = capsys.readouterr().out
    assert "| python (1) | 1 | 1 | 0 | 1 | 1 | 0 |" in said
    assert "Own/0" not in said


def test_one_that_was_interrupted_goes_on(python: Python, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--benchmark", str(write(tmp_path)), "--language", "python", "--mode", "fixed"]
    judged, judge = [], Python.judge

    def interrupted(self: Python, problem: Problem, base: str, program: str) -> Verdict:
        judged.append(problem.task_id)
        if problem.task_id == "Own/0" and judged.count("Own/0") == 3:
            raise EvaluationError("no box")
        return judge(self, problem, base, program)

    monkeypatch.setattr(Python, "judge", interrupted)
    with pytest.raises(EvaluationError, match="no box"):
        selftest.command(arguments)
    assert judged.count("Own/0") == 3
    assert selftest.command(arguments) == 0
    assert judged.count("Own/0") == 4, "the first two were known"
    assert selftest.command([*arguments, "--fresh"]) == 0
    assert judged.count("Own/0") == 7


def test_a_wrong_canonical_solution_is_named_with_its_reason(python: Python, tmp_path: Path,
                                                             capsys: pytest.CaptureFixture) -> None:
    folder = write(tmp_path, canonical_solution="    return x * 4\n")
    given = ["--benchmark", str(folder), "--language", "python", "--mode", "fixed"]
    assert selftest.command(given) == 1
    assert ("| Own/0 | canonical, synthesize | fixed | failed | AssertionError, at test line 2: assert double(2) == 4 |"
            in capsys.readouterr().out)
    assert selftest.command([*given, "--allow", "Own/0"]) == 0


@pytest.mark.parametrize(("name", "table"), [
    ("HUMANEVAL", "| benchmark | fixed: canonical, synthesize | compat: canonical, synthesize |\n| --- | --- | --- |\n"
                  "| HumanEval (3) | 3 | 3 |\n\nEvery canonical solution passes, and no buggy one.\n"),
    ("MBPP", "| MBPP (3) | 3 | 1 |\n\n| problem | solution, scenario | mode | verdict | reason |\n"
             "| --- | --- | --- | --- | --- |\n"
             "| Mbpp/12 | canonical, synthesize | compat | failed | NameError: name 'made_before' is not defined |\n"
             "| Mbpp/510 | canonical, synthesize | compat | failed | NameError: name 'math' is not defined |\n"),
    ("MBPPPLUS", "| MBPP+ (3) | 3 | 3 |"),
])
def test_every_benchmark_has_its_table(python: Python, tmp_path: Path, capsys: pytest.CaptureFixture, name: str,
                                       table: str) -> None:
    path = files.write(tmp_path / "file", getattr(files, name))
    assert selftest.command(["--benchmark", str(path), "--timeout-s", "5"]) == 0
    assert table in capsys.readouterr().out


PAGE = "# Ours\n\n<!-- selftest mbpp -->\nold\n<!-- end of selftest -->\n\n{}\nThe end.\n"


def test_tables_are_written_into_their_place_in_a_page(python: Python, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.format("<!-- selftest humaneval -->\n<!-- end of selftest -->"))
    path = files.write(tmp_path / "file", files.HUMANEVAL[1:2])
    given = ["--benchmark", str(path), "--mode", "compat", "--timeout-s", "5", "--markdown", str(page)]
    for _ in range(2):  # the second time over the first
        assert selftest.command(given) == 0
        assert page.read_text() == PAGE.format(
            "<!-- selftest humaneval -->\n\n| benchmark | compat: canonical, synthesize |\n| --- | --- |\n"
            "| HumanEval (1) | 1 |\n\nEvery canonical solution passes, and no buggy one.\n\n<!-- end of selftest -->")


@pytest.mark.parametrize(("more", "message"), [
    (("--markdown", "nowhere.md"), "--markdown: there is no file nowhere.md; name one that has the lines <!-- selftest"),
    (("--markdown", "{page}"), "--markdown: .*page.md has no line <!-- selftest humaneval --> with a line <!-- end"),
    (("--mode", "fixed,loose"), "--mode: 'loose' is unknown; use one or more of fixed, compat"),
])
def test_what_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple,
                                                                message: str) -> None:
    monkeypatch.setattr(selftest, "judge_all", None)
    (tmp_path / "page.md").write_text(PAGE.format("<!-- selftest humaneval -->\n"))
    path = files.write(tmp_path / "file", files.HUMANEVAL)
    with pytest.raises(MegatronFTError, match=message):
        selftest.command(["--benchmark", str(path), *(each.format(page=tmp_path / "page.md") for each in more)])


@pytest.mark.slow
def test_every_language_is_judged_by_both_rules(humanevalpack: Path, python: Python, capsys: pytest.CaptureFixture) -> None:
    """Three solutions of the first problem of each language."""
    assert selftest.command(["--benchmark", str(humanevalpack.parent), "--limit", "1"]) == 0
    said = capsys.readouterr().out
    for name in languages.LANGUAGES:
        assert f"| {name} (1) | 1 | 1 | 0 | 1 | 1 | 0 |" in said

"""Two runs side by side: what was gained and lost, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ft.errors import ConfigError
from megatron_ft.evaluation import compare
from tests.evaluation import runs
from tests.evaluation.problems import make_problem

PROBLEMS = [make_problem(task_id=f"Own/{number}") for number in range(4)]


def told(capsys: pytest.CaptureFixture, *argv: object) -> str:
    capsys.readouterr()
    compare.command([str(each) for each in argv])
    return capsys.readouterr().out


def test_it_says_what_was_gained_and_lost(write_benchmark, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = write_benchmark(*PROBLEMS)
    before, after = tmp_path / "before", tmp_path / "after"
    runs.write(before, source, {"Own/0": ["failed"], "Own/1": ["passed"], "Own/2": ["failed"], "Own/3": ["timeout"]})
    runs.write(after, source, {"Own/0": ["passed"], "Own/1": ["refused"], "Own/2": ["passed"], "Own/3": ["failed"]}, seed=7,
               mode="compat")
    text = told(capsys, before, after)
    assert "| synthesize | python | 4 | 25.0 | 50.0 | +25.0 |" in text
    assert "gained: Own/0, Own/2\n" in text and "lost: Own/1\n" in text
    assert "mode: 'fixed' in A, 'compat' in B; seed: 3 in A, 7 in B" in text
    (found,) = json.loads(told(capsys, before, after, "--json"))["comparisons"]
    assert found["difference"]["value"] == 0.25 and found["difference"]["p"] == 1.0
    assert [each["task_id"] for each in found["gained"]] == ["Own/0", "Own/2"]


def test_more_samples_are_compared_by_their_share_on_the_common_problems(write_benchmark, tmp_path: Path,
                                                                        capsys: pytest.CaptureFixture) -> None:
    source = write_benchmark(*PROBLEMS)
    runs.write(tmp_path / "a", source, {"Own/0": ["failed"], "Own/1": ["passed"], "Own/2": ["passed"]})
    runs.write(tmp_path / "b", source, {"Own/3": ["failed"] * 4, "Own/1": ["passed"] * 3 + ["failed"], "Own/2": ["passed"] * 4})
    text = told(capsys, tmp_path / "a", tmp_path / "b")
    assert "| synthesize | python | 2 | 100.0 | 87.5 | -12.5 |" in text
    assert "lost: Own/1 (1/1 to 3/4)" in text
    same = told(capsys, tmp_path / "a", tmp_path / "a")
    assert "Their settings are the same." in same and "| +0.0 | +0.0 to +0.0 | 1 | 0 | 0 |" in same


def test_what_has_nothing_in_common_is_refused(write_benchmark, tmp_path: Path) -> None:
    source = write_benchmark(*PROBLEMS)
    run = runs.write(tmp_path / "a", source, {"Own/0": ["failed"]})
    other = runs.write(tmp_path / "b", source, {"Own/1": ["failed"]})
    with pytest.raises(ConfigError, match="has synthesize in python, .*: no problem is in both"):
        compare.compare(run, other)
    other = runs.write(tmp_path / "c", source, {"Own/0": ["failed"]}, scenario="fixdocs")
    with pytest.raises(ConfigError, match="has synthesize in python, .* has fixdocs in python: no problem"):
        compare.compare(run, other)
    other = runs.write(tmp_path / "d", write_benchmark(*PROBLEMS[:2]), {"Own/0": ["failed"]})
    with pytest.raises(ConfigError, match="its python benchmark is not that of .*a .sha256 [0-9a-f]{64} and [0-9a-f]{64}"):
        compare.compare(run, other)

"""Shards and what joins them: the same files as one run, and a refusal of everything that is not all of one run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megatron_ft.errors import ConfigError, DataError
from megatron_ft.evaluation import merge, settings, shards, verdict_cache
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.run import evaluate
from megatron_ft.evaluation.shards import Shard
from tests.evaluation import runs, tiny
from tests.evaluation.problems import make_problem

PROBLEMS = [make_problem(task_id=f"Own/{number}", instruction=f"Write number {number} of double{' more' * number}.")
            for number in range(5)]
STATUSES = {"Own/0": ["passed"], "Own/1": ["failed"], "Own/2": ["passed"], "Own/3": ["timeout"]}


def rows(path: Path) -> list[dict]:
    """Without what no two runs share: how long it took."""
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in path.open()]


def parts(folder: Path, source: Path, count: int, **changed: object) -> list[Path]:
    """Shards of a run with verdicts of our choice."""
    for index in range(count):
        runs.write(folder / str(index), source, STATUSES, shard=f"{index}/{count}", **changed)
    return [folder / str(index) for index in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_task_is_in_exactly_one_shard(count: int) -> None:
    scenarios = ["explaindescribe", "fixtests", "explainsynthesize"]
    whole = shards.places({"python": ["p0", "p1", "p2"], "go": ["g0", "g1"]}, scenarios)
    found = [shards.part(whole, Shard(index, count)) for index in range(count)]
    assert sorted(place for each in found for place in each) == sorted(whole)
    for each in found:
        assert [place for place in whole if place in each] == each  # in the order of the run
        asked = {(place.task_id, place.scenario) for place in each}
        assert all((task_id, "explaindescribe") in asked for task_id, scenario in asked if scenario == "explainsynthesize")
    sizes = [len({(place.task_id, place.scenario.removesuffix("describe").removesuffix("synthesize")) for place in each})
             for each in found]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "1/0", "a/b", "1/2/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard: '.*' is no shard; write i/n with i from 0 to n - 1"):
        settings.Settings(benchmark="b", output="o", scenario="fixtests", solutions="buggy", shard=text)


def test_more_shards_than_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="--shard: 0/3 cuts a run of 2 tasks into 3 parts, .* use at most 2"):
        shards.part(shards.places({"go": ["a", "b"]}, ["fixdocs"]), Shard(0, 3))


def test_shards_of_solutions_are_the_whole_run(python: Python, write_benchmark, tmp_path: Path, verdicts: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--benchmark", str(write_benchmark(*PROBLEMS)), "--scenario", "synthesize,fixtests", "--solutions", "buggy"]
    whole = evaluate(settings.parse([*arguments, "--output", str(tmp_path / "whole")]))
    monkeypatch.setenv(verdict_cache.VARIABLE, str(verdicts / "of the parts"))  # which judge their programs themselves
    for index in range(3):
        part = evaluate(settings.parse([*arguments, "--output", str(tmp_path / f"part{index}"), "--shard", f"{index}/3"]))
        assert part["settings"]["shard"] == f"{index}/3"
        assert not (tmp_path / f"part{index}" / "harness").exists()
    merge.command(["--output", str(tmp_path / "out"), *(str(tmp_path / f"part{index}") for index in (2, 0, 1))])
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    assert rows(tmp_path / "out" / "results.jsonl") == rows(tmp_path / "whole" / "results.jsonl")
    merged = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert merged["scores"] == whole["scores"]
    assert merged["settings"]["shard"] == "" and [Path(path).name for path in merged["merged"]] == ["part0", "part1", "part2"]
    name = Path("harness") / "generations_humanevalfixtests-python.json"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_shards_of_a_model_s_answers_are_the_whole_run(python: Python, write_benchmark, tmp_path: Path, verdicts: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--benchmark", str(write_benchmark(*PROBLEMS)), "--model", str(tiny.write(tmp_path / "model")),
                 "--device", "cpu", "--scenario", "synthesize,explainsynthesize", "--samples", "3", "--temperature", "0.8",
                 "--max-new-tokens", "8"]
    whole = evaluate(settings.parse([*arguments, "--output", str(tmp_path / "whole")]))
    monkeypatch.setenv(verdict_cache.VARIABLE, str(verdicts / "of the parts"))  # which judge their programs themselves
    found = [tmp_path / f"part{index}" for index in range(3)]
    for index, path in enumerate(found):
        evaluate(settings.parse([*arguments, "--output", str(path), "--shard", f"{index}/3", "--batch-size", str(2 + index)]))
    merged = merge.merge([str(path) for path in found], str(tmp_path / "out"))
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    assert rows(tmp_path / "out" / "results.jsonl") == rows(tmp_path / "whole" / "results.jsonl")
    assert len(rows(tmp_path / "out" / "samples.jsonl")) == 5 * 3 * 3  # synthesize, explaindescribe, explainsynthesize
    for name in ("samples", "tokens", "by_length"):
        assert merged["generation"][name] == whole["generation"][name]


def test_gaps_overlaps_and_other_cuts_are_refused(write_benchmark, tmp_path: Path) -> None:
    source = write_benchmark(*PROBLEMS)
    zero, one, two = parts(tmp_path / "three", source, 3)
    with pytest.raises(ConfigError, match="of 3 shards 0/3, 2/3 are missing"):
        merge.merge([str(one)], str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="three/1: is shard 1/3, and so is .*three/1; name each once"):
        merge.merge([str(zero), str(one), str(one), str(two)], str(tmp_path / "out"))
    (half, _) = parts(tmp_path / "two", source, 2)
    with pytest.raises(ConfigError, match="two/0: is shard 0/2, but .* is one of 3"):
        merge.merge([str(zero), str(half)], str(tmp_path / "out"))
    other = parts(tmp_path / "other", source, 3, seed=4)[1]
    with pytest.raises(ConfigError, match="other/1: is of another run than .*three/0 .seed: 3 there, 4 here"):
        merge.merge([str(zero), str(other), str(two)], str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="--output: .* exists already"):
        merge.merge([str(zero), str(one), str(two)], str(zero))
    assert not (tmp_path / "out").exists()
    assert merge.merge([str(two), str(one), str(zero)], str(tmp_path / "out"))["scores"][0]["verdicts"]["timeout"] == 1


def test_rows_that_are_missing_double_or_strange_are_refused(write_benchmark, tmp_path: Path) -> None:
    zero, one = parts(tmp_path / "two", write_benchmark(*PROBLEMS), 2)
    lines = (one / "results.jsonl").read_text().splitlines(keepends=True)
    (one / "results.jsonl").write_text(lines[0])
    with pytest.raises(DataError, match="of 4 rows of results.jsonl, sample 0 of Own/3/synthesize is missing in every shard"):
        merge.merge([str(zero), str(one)], str(tmp_path / "out"))
    (one / "results.jsonl").write_text(lines[0] + lines[1].replace("Own/3", "Own/0"))
    with pytest.raises(DataError, match="sample 0 of Own/0/synthesize is in another shard too; is one of the folders a copy"):
        merge.merge([str(zero), str(one)], str(tmp_path / "out"))
    (one / "results.jsonl").write_text("".join(lines) + lines[1].replace("Own/3", "Own/9"))
    with pytest.raises(DataError, match="of 4 rows of results.jsonl, sample 0 of Own/9/synthesize is not of this run"):
        merge.merge([str(zero), str(one)], str(tmp_path / "out"))
    (one / "results.jsonl").write_text(lines[0] + lines[0])
    with pytest.raises(DataError, match="results.jsonl:2: sample 0 of Own/1/synthesize is there twice"):
        merge.merge([str(zero), str(one)], str(tmp_path / "out"))
    (one / "results.jsonl").write_text(lines[0] + lines[1][:30])
    with pytest.raises(DataError, match="results.jsonl:2: no row of a run .*; was it copied whole"):
        merge.merge([str(zero), str(one)], str(tmp_path / "out"))
    shutil.rmtree(one)
    with pytest.raises(DataError, match="two/1: there is no such folder"):
        merge.merge([str(zero), str(one)], str(tmp_path / "out"))


def test_other_toolchains_among_the_shards_are_said(write_benchmark, tmp_path: Path) -> None:
    found = parts(tmp_path / "two", write_benchmark(*PROBLEMS), 2)
    summary = json.loads((found[1] / "summary.json").read_text())
    summary["toolchains"]["python"]["python"] = "3.12.1"
    (found[1] / "summary.json").write_text(json.dumps(summary))
    merged = merge.merge([str(path) for path in found], str(tmp_path / "out"))
    assert merged["toolchains"] == {"python": {"python": "3.11.7 / 3.12.1"}}

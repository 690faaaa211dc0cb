"""The road from prompts to samples.jsonl by vLLM, of which only a stand-in can be here (see `stand_in_vllm`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_ft.data.templates import Segment
from megatron_ft.errors import ConfigError, EvaluationError
from megatron_ft.evaluation import engines, model_folder, settings, vllm_backend
from megatron_ft.evaluation.batching import Request, Row, Sampling
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.run import evaluate
from megatron_ft.evaluation.run_folder import RunFolder
from megatron_ft.evaluation.vllm_backend import Vllm
from tests.evaluation import stand_in_vllm, tiny
from tests.evaluation.problems import make_problem

PROBLEMS = [make_problem(task_id=f"Own/{number}", instruction=f"Write number {number} of double{' more' * number}.")
            for number in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch):
    """vLLM and two GPUs are here, as far as the program can see."""
    monkeypatch.setitem(sys.modules, "vllm", stand_in_vllm)
    monkeypatch.setattr(vllm_backend, "version", lambda: "0.0-stand-in")
    monkeypatch.setattr(model_folder, "cuda_devices", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(stand_in_vllm.LLM, "made", [])
    return stand_in_vllm


def command(benchmark: Path, model: Path, output: Path, *more: str) -> settings.Settings:
    return settings.parse(["--benchmark", str(benchmark), "--model", str(model), "--output", str(output), "--scenario",
                           "synthesize", "--max-new-tokens", "16", *more])


def asked(sample: int = 0, is_complete: Callable[[str], bool] = lambda text: False) -> Row:
    return Row(Request("Own/0", sample, Segment(("",), supervised=False), is_complete), [40, 41, 42], 16)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_greedy_answers_are_those_of_transformers(vllm, python: Python, write_benchmark, folder: Path, tmp_path: Path) -> None:
    source = write_benchmark(*PROBLEMS)
    scenarios = ("--scenario", "synthesize,explainsynthesize")
    evaluate(command(source, folder, tmp_path / "vllm", "--backend", "vllm", *scenarios))
    evaluate(command(source, folder, tmp_path / "plain", "--device", "cpu", *scenarios))
    assert (tmp_path / "vllm" / "samples.jsonl").read_bytes() == (tmp_path / "plain" / "samples.jsonl").read_bytes()
    assert len(rows(tmp_path / "vllm" / "samples.jsonl")) == 9
    assert vllm.LLM.made == [{"dtype": "bfloat16", "tensor_parallel_size": 2, "enable_prefix_caching": True,
                              "trust_remote_code": False}]
    assert json.loads((tmp_path / "vllm" / "run.json").read_text())["backend"] == "vllm"


def test_samples_have_their_own_seeds_and_a_run_goes_on(vllm, python: Python, write_benchmark, folder: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_benchmark(*PROBLEMS)
    sampled = ("--backend", "vllm", "--devices", "1", "--samples", "4", "--temperature", "0.9")
    evaluate(command(source, folder, tmp_path / "whole", *sampled))
    whole = rows(tmp_path / "whole" / "samples.jsonl")
    assert len({row["completion"] for row in whole}) == 12
    assert stand_in_vllm.LLM.made[-1]["tensor_parallel_size"] == 1
    kept = []
    add = RunFolder.add_sample

    def broken(self: RunFolder, row: dict) -> None:
        if len(kept) == 5:
            raise EvaluationError("no more")
        kept.append(row)
        add(self, row)

    with monkeypatch.context() as until, pytest.raises(EvaluationError, match="no more"):
        until.setattr(RunFolder, "add_sample", broken)
        evaluate(command(source, folder, tmp_path / "broken", *sampled))
    evaluate(command(source, folder, tmp_path / "broken", *sampled))
    assert rows(tmp_path / "broken" / "samples.jsonl") == whole


def test_a_complete_answer_is_taken_out_of_the_engine_at_once(vllm, folder: Path) -> None:
    engine = Vllm(str(folder), dtype="float32", devices=1)
    wanted = [asked(sample, lambda text, sample=sample: sample == 1) for sample in range(3)]
    told: list[int] = []
    done = {row.request.sample: completion for row, completion
            in engine.answers(wanted, Sampling(0.9, 0.95, 16, seed=1), told.append)}
    assert (done[1].finish, done[1].tokens) == ("stop", 8)
    assert engine._llm.llm_engine.aborted == ["1"]
    assert {done[0].finish, done[2].finish} <= {"length", "end"}
    assert sum(told) == sum(completion.tokens for completion in done.values())


def test_an_end_token_that_the_engine_does_not_show_ends_an_answer_too(vllm, folder: Path, monkeypatch: pytest.MonkeyPatch
                                                                       ) -> None:
    engine = Vllm(str(folder), dtype="float32", devices=1)
    inner = engine._llm.llm_engine
    answer = stand_in_vllm.CompletionOutput(0, "", [50, 51], "stop")
    output = stand_in_vllm.RequestOutput("0", [40, 41, 42], [answer], finished=True)
    monkeypatch.setattr(inner, "step", lambda: inner.requests.clear() or [output])
    ((_, done),) = engine.answers([asked()], Sampling(0.0, 1.0, 16, seed=1), lambda count: None)
    assert (done.finish, done.text) == ("end", engine.outline.tokenizer.decode([50, 51]))


def test_an_engine_that_gives_no_end_is_an_error(vllm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Vllm(str(folder), dtype="float32", devices=1)
    monkeypatch.setattr(engine._llm.llm_engine, "step", lambda: engine._llm.llm_engine.requests.clear() or [])
    with pytest.raises(EvaluationError, match="--backend: vllm gave no end to 1 of 1 answers; use --backend transformers"):
        list(engine.answers([asked()], Sampling(0.0, 1.0, 16, seed=1), lambda count: None))


def test_what_vllm_says_of_a_model_is_passed_on(vllm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "cuda_devices", lambda: 8)
    with pytest.raises(EvaluationError, match=r"--backend: vllm does not load .* on 7 GPUs: Total number of attention heads "
                       ".*; use a number of --devices that divides its attention heads"):
        Vllm(str(folder), dtype="auto", devices=7)


def test_without_vllm_or_its_gpu_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = command(tmp_path, tmp_path, tmp_path / "out", "--backend", "vllm")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"--backend: vllm cannot be imported here .*`pip install vllm` on a machine with an "
                       "NVIDIA GPU .*or use --backend transformers"):
        engines.resolve(wanted)
    monkeypatch.setitem(sys.modules, "vllm", stand_in_vllm)
    monkeypatch.setattr(model_folder, "cuda_devices", lambda: 0)
    with pytest.raises(ConfigError, match="--device: cuda is not available here"):
        engines.resolve(wanted)


@pytest.mark.parametrize(("device", "gpus", "version", "chosen"), [
    ("auto", 2, "0.17.1", "vllm"), ("cpu", 2, "0.17.1", "transformers"), ("auto", 0, "0.17.1", "transformers"),
    ("auto", 2, None, "transformers"),
])
def test_auto_takes_vllm_where_it_can(vllm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, gpus: int,
                                      version: str | None, chosen: str) -> None:
    monkeypatch.setattr(vllm_backend, "version", lambda: version)
    monkeypatch.setattr(model_folder, "cuda_devices", lambda: gpus)
    resolved = engines.resolve(command(tmp_path, tmp_path, tmp_path / "out", "--backend", "auto", "--device", device))
    assert resolved.backend == chosen
    assert engines.resolve(command(tmp_path, tmp_path, tmp_path / "out", "--device", device)).backend == "transformers"

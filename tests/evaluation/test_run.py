"""The whole command: what it writes, what it refuses, how it leaves."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from megatron_ft import evaluate as evaluate_command
from megatron_ft.errors import CheckpointError, ConfigError, DataError, EvaluationError
from megatron_ft.evaluation import execution, model_folder, scenarios, settings
from megatron_ft.evaluation.execution import Attempt
from megatron_ft.evaluation.languages.python import Python
from megatron_ft.evaluation.run import evaluate
from megatron_ft.evaluation.verdict import Verdict
from tests.data.small_tokenizers import CHATML_TOKENS, COMMIT_TOKENS, bytes_tokenizer
from tests.evaluation import tiny
from tests.evaluation.problems import make_problem

ROOT = Path(__file__).parents[2]
PROBLEMS = [make_problem(), make_problem(task_id="Own/1", test="def check(f):\n    assert f(3) == 6\ncheck(double)")]


def arguments(benchmark: Path, output: Path, *more: str) -> list[str]:
    return ["--benchmark", str(benchmark), "--output", str(output), "--scenario", "synthesize", *more]


def run(benchmark: Path, output: Path, *more: str) -> dict:
    return evaluate(settings.parse(arguments(benchmark, output, *more)))


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_own_solutions_are_scored(python: Python, write_benchmark, tmp_path: Path,
                                  capsys: pytest.CaptureFixture) -> None:
    benchmark = write_benchmark(*PROBLEMS)
    assert run(benchmark, tmp_path / "right", "--solutions", "canonical")["scores"][0]["pass@k"] == {"1": 1.0}
    assert "pass@1" in capsys.readouterr().out
    assert run(benchmark, tmp_path / "wrong", "--solutions", "buggy")["scores"][0]["pass@k"] == {"1": 0.0}
    result = json.loads((tmp_path / "wrong" / "summary.json").read_text())
    (score,) = result["scores"]
    assert (score["language"], score["scenario"], score["problems"], score["samples"]) == ("python", "synthesize", 2, 2)
    assert score["verdicts"]["failed"] == 2
    assert result["settings"]["solutions"] == "buggy"
    assert len(result["benchmark"]["python"]["sha256"]) == 64
    assert result["versions"]["python"] == sys.version.split()[0]
    assert result["toolchains"]["python"]["python"] == sys.version.split()[0]


def test_a_model_is_evaluated(python: Python, write_benchmark, tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model")
    result = run(write_benchmark(*PROBLEMS), tmp_path / "out", "--model", str(model), "--samples", "3",
                 "--temperature", "0.8", "--max-new-tokens", "12", "--device", "cpu")
    samples, results = rows(tmp_path / "out" / "samples.jsonl"), rows(tmp_path / "out" / "results.jsonl")
    expected = [(task_id, sample) for task_id in ("Own/0", "Own/1") for sample in range(3)]
    for lines in (samples, results):
        assert [(row["task_id"], row["sample"]) for row in lines] == expected
    named = {"task_id", "scenario", "language", "sample"}
    assert set(samples[0]) == {*named, "completion", "tokens", "finish", "program"}
    assert set(results[0]) == {*named, "status", "reason", "seconds", "output", "program_sha256"}
    (score,) = result["scores"]
    assert set(score["pass@k"]) == {"1", "2", "3"}
    assert result["generation"]["samples"] == 6
    assert sum(score["verdicts"].values()) == 6


@pytest.mark.parametrize("style", ["chat", "chatml", "commit"])
def test_a_model_is_asked_in_the_style_of_its_training(python: Python, write_benchmark, tmp_path: Path, style: str) -> None:
    model = tiny.write(tmp_path / "model")
    chat = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    bytes_tokenizer(model, [*CHATML_TOKENS, *COMMIT_TOKENS], vocabulary=300,
                    chat_template=chat.replace("<|im_start|>", "<|im_start|>{{ message['role'] }}:")
                    + "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}")
    result = run(write_benchmark(*PROBLEMS), tmp_path / "out", "--model", str(model), "--prompt-style", style,
                 "--max-new-tokens", "4", "--device", "cpu")
    assert result["settings"]["prompt_style"] == style
    assert result["scores"][0]["samples"] == 2


@pytest.mark.parametrize(("style", "scenario", "error", "message"), [
    ("chatml", "synthesize", DataError, r"has no special token '<\|im_start\|>'; .*template 'chatml' writes <\|im_start\|>, "),
    ("chat", "synthesize", ConfigError, "model has no chat template .*; use one of octocoder"),
    ("plain", "fixtests", ConfigError, "--prompt-style: plain has no place for the code that"),
])
def test_a_style_that_the_model_cannot_be_asked_in_is_refused_before_it_is_loaded(
        write_benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str, scenario: str, error: type,
        message: str) -> None:
    model = tiny.write(tmp_path / "model")
    monkeypatch.setattr(model_folder, "load", None)
    with pytest.raises(error, match=message):
        run(write_benchmark(*PROBLEMS), tmp_path / "out", "--model", str(model), "--prompt-style", style,
            "--scenario", scenario)


def test_the_chat_template_of_a_hub_model_is_fetched_without_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda model, allow_patterns: asked.append(
        (model, allow_patterns)) or "/cache")
    assert model_folder.tokenizer_folder("some/model", fetch=False) is None
    assert model_folder.tokenizer_folder("some/model", fetch=True) == "/cache"
    assert asked == [("some/model", model_folder.TOKENIZER_FILES)]

    def offline(model: str, allow_patterns: list[str]) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match="--model: the tokenizer of some/model cannot be fetched: OSError: no network"):
        model_folder.tokenizer_folder("some/model", fetch=True)


def test_a_program_that_repeats_is_run_once() -> None:
    judged, verdicts, expected = [], {}, []

    class Counted:
        def expect(self, tasks):
            expected.extend(task.problem.task_id for task in tasks)

        def judge(self, task, program):
            judged.append((task.problem.task_id, program))
            return Verdict("passed" if program == "right" else "failed", "", 0.0, "")

    attempts = [Attempt(scenarios.task(problem, scenario, "python"), sample, program) for problem in PROBLEMS
                for scenario in ("synthesize", "fixdocs") for sample, program in enumerate(["right", "wrong", "right"])]
    execution.execute(attempts, {"python": Counted()}, workers=3,
                      keep=lambda attempt, verdict: verdicts.update({(attempt.task.key, attempt.sample): verdict.passed}))
    assert set(expected) == {"Own/0", "Own/1"}
    assert sorted(judged) == [(task, program) for task in ("Own/0", "Own/1") for program in ("right", "wrong")]
    assert verdicts == {(attempt.task.key, attempt.sample): attempt.program == "right" for attempt in attempts}


def test_answers_can_be_generated_in_one_place_and_judged_in_another(python: Python, write_benchmark, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.write(tmp_path / "model")
    asked = ["--model", str(model), "--samples", "2", "--temperature", "0.8", "--max-new-tokens", "12", "--device", "cpu"]
    benchmark = write_benchmark(*PROBLEMS)
    whole = run(benchmark, tmp_path / "whole", *asked)

    def missing(**_: object) -> None:
        raise EvaluationError("no sandbox works here")

    def no_gpu(*_: object) -> None:
        raise AssertionError("nothing is left to generate")

    with monkeypatch.context() as gpu_node:
        gpu_node.setattr("megatron_ft.evaluation.sandbox.find", missing)
        assert run(benchmark, tmp_path / "out", *asked, "--generate-only") == {}
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as cpu_node:
        cpu_node.setattr("megatron_ft.evaluation.engines.opened", no_gpu)
        assert run(benchmark, tmp_path / "out", *asked)["scores"] == whole["scores"]
    assert (tmp_path / "out/samples.jsonl").read_bytes() == (tmp_path / "whole/samples.jsonl").read_bytes()


def test_nothing_is_left_when_a_run_breaks(python: Python, write_benchmark, tmp_path: Path) -> None:
    broken = make_problem(task_id="Own/2", test="assert (")
    with pytest.raises(EvaluationError, match="Own/2: its own text does not run"):
        run(write_benchmark(*PROBLEMS, broken), tmp_path / "results" / "out", "--solutions", "canonical")
    assert list((tmp_path / "results").iterdir()) == []


def test_an_output_that_exists_is_not_touched(write_benchmark, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--output: .* exists already"):
        run(write_benchmark(*PROBLEMS), tmp_path, "--solutions", "canonical")


@pytest.mark.parametrize(("changed", "message"), [
    ({}, "--model, --solutions, --generations: exactly one of them is needed, none given"),
    ({"model": "m", "solutions": "buggy"}, "exactly one of them is needed, --model and --solutions given"),
    ({"solutions": "buggy", "generate_only": True}, "--generate-only: --solutions has the answers already; it goes with"),
    ({"model": "m", "samples": 0}, "--samples: 0 is too small; use 1 or more"),
    ({"model": "m", "batch_size": 0}, "--batch-size: 0 is too small"),
    ({"model": "m", "temperature": -1.0}, "--temperature, --top-p: -1 and 0.95 cannot be sampled with"),
    ({"model": "m", "top_p": 0.0}, "--temperature, --top-p: 0 and 0 cannot be sampled with"),
    ({"model": "m", "timeout_s": -1.0}, "--timeout-s: -1 leaves a program no time"),
    ({"model": "m", "scenario": "synthesize,guess"}, "--scenario: 'guess' is unknown; use one or more of synthesize, fixt"),
    ({"model": "m", "language": ""}, "--language: '' is unknown; use one or more of python, js, java, go, cpp, rust, or all"),
    ({"model": "m", "samples": 5}, "--samples: 5 samples at temperature 0 would all be the same"),
    ({"solutions": "buggy", "samples": 5}, "--samples: a benchmark has one buggy solution per problem"),
])
def test_settings_that_cannot_work_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.Settings(**{"benchmark": "b", "output": "o", "scenario": "synthesize", **changed})


def test_every_setting_is_an_option_with_its_default() -> None:
    parsed = settings.parse(arguments(Path("b"), Path("o"), "--model", "m", "--top-p", "0.5"))
    assert parsed == dataclasses.replace(
        settings.Settings(benchmark="b", output="o", scenario="synthesize", model="m"), top_p=0.5)


def command(*more: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "megatron_ft.evaluate", *more], cwd=ROOT, capture_output=True,
                          text=True, check=False)


def test_the_exit_code_tells_the_truth(python: Python, write_benchmark, tmp_path: Path) -> None:
    benchmark = write_benchmark(*PROBLEMS)
    done = command(*arguments(benchmark, tmp_path / "out", "--solutions", "canonical"))
    assert done.returncode == 0, done.stderr
    assert "1.0000" in done.stdout
    again = command(*arguments(benchmark, tmp_path / "out", "--solutions", "canonical"))
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("error: ConfigError: --output: ")
    unknown = command(*arguments(benchmark, tmp_path / "more", "--solutions", "canonical", "--language", "cobol"))
    assert unknown.returncode == 2
    assert "--language: 'cobol' is unknown; use one or more of python, js" in unknown.stderr


def test_other_commands_are_found_and_told_of(tmp_path: Path) -> None:
    told = command("--help").stdout
    for name in evaluate_command.COMMANDS:
        assert f"\n  {name} " in told
        assert f"python -m megatron_ft.evaluate {name}" in command(name, "--help").stdout
    refused = command("report", str(tmp_path / "nowhere"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: DataError: ")


def test_help_and_own_solutions_need_no_torch() -> None:
    heavy = "'torch', 'transformers', 'megatron', 'scipy', 'numpy', 'matplotlib'"
    code = ("import sys\nfrom megatron_ft import evaluate\n"
            f"assert not {{{heavy}}} & set(sys.modules), sorted(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_humanevalpack_s_canonical_solutions_all_pass(python: Python, humanevalpack: Path, tmp_path: Path) -> None:
    result = run(humanevalpack, tmp_path / "out", "--solutions", "canonical")
    assert result["scores"][0]["verdicts"]["passed"] == result["scores"][0]["problems"] == 164


@pytest.mark.slow
def test_humanevalpack_s_buggy_solutions_all_fail(python: Python, humanevalpack: Path, tmp_path: Path) -> None:
    result = evaluate(settings.parse([
        "--benchmark", str(humanevalpack), "--output", str(tmp_path / "out"), "--scenario", "fixtests",
        "--solutions", "buggy", "--timeout-s", "3"]))
    assert result["scores"][0]["verdicts"]["passed"] == 0
    assert result["scores"][0]["problems"] == 164

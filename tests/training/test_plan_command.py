"""`python -m megatron_ft.plan` as a person runs it: what it prints, what it refuses, what it advises, its exit codes."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from megatron_ft import cli, families, plan
from megatron_ft.runtime.device import Process
from megatron_ft.training import run_data, setup

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
STARCODER = [str(CONFIGS / "starcoderbase-15b.toml"), "--model", "starcoderbase", "--gpu", "a100-80g"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command; (exit code, what it printed, its error)."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main(plan.main)
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return command


@pytest.fixture
def here(bases, dataset, tmp_path):
    """A config whose model and data are there."""
    path = tmp_path / "run.toml"
    path.write_text(f'[run]\ndir = "{tmp_path / "run"}"\nepochs = 3\n[load]\nfrom = "{bases("llama", "gqa")[0]}"\n'
                    f'[data]\ntrain = ["0:0.9 {dataset}"]\nrow_tokens = 96\nrows_per_step = 8\n', encoding="utf-8")
    return path


def test_what_fits_is_derived_and_ends_with_0():
    """In a process of its own, through a pipe: nothing of a table may be cut off."""
    done = subprocess.run([sys.executable, "-m", "megatron_ft.plan", *STARCODER, "--gpus", "64", "--rows-per-epoch", "6400"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "…" not in done.stdout
    for line in ("starcoderbase-15b.toml on 64 x a100-80g (8 nodes of 8)",
                 "model: starcoder, 40 layers x 6144, 48 heads, 1 key/value head, 15,517,456,384 parameters, bf16 (--model",
                 "64 processes = 4 tp x 1 pp x 16 dp", "128 rows/step = 2 row/micro-batch x 16 dp x 4 micro-batches",
                 "1,048,576 tokens/step = 128 rows x 8192 tokens", "50.0 steps/epoch = 6,400 rows/epoch / 128 rows/step",
                 "100 steps = 12,800 rows = 2.00 epochs of 6,400 rows", "largest temporary",
                 "110.0 PFLOP/step = 6 x 15,464,398,848 matrix weights x 1,048,576 tokens + 12.7 PFLOP of attention",
                 "as if every document filled a row", "fits: the fullest GPU (stage 0) holds 63.0 of 79.1 GiB (80%)"):
        assert line in done.stdout, line


def test_hours_are_flops_over_what_the_gpus_do_at_the_stated_share(run):
    _, printed, _ = run(*STARCODER, "--gpus", 64, "--rows-per-epoch", 6400, "--mfu", 0.3, "--json")
    facts = json.loads(printed)
    assert facts["steps"] == 100 and facts["rows_per_epoch"] == 6400
    assert facts["hours_at_stated_mfu"] == pytest.approx(100 * facts["flops_per_step"] / (64 * 312e12 * 0.3) / 3600)
    assert facts["hours_by_the_model"] == pytest.approx(100 * facts["step_s"] / 3600)
    assert sum(facts["step_parts_s"].values()) == pytest.approx(facts["step_s"])


def test_json_and_text_say_the_same(run):
    arguments = [*STARCODER, "--gpus", 64, "parallel.pp=4", "data.rows_per_micro_batch=1"]
    code, text, _ = run(*arguments)
    facts = json.loads(run(*arguments, "--json")[1])
    assert code == 0 and [stage["layers"] for stage in facts["stages"]] == [10, 10, 10, 10]
    for stage in facts["stages"]:
        assert f"{stage['total_bytes'] / 2**30:.2f} " in text
        assert sum(size for name, size in stage.items() if name.endswith("_bytes")) == 2 * stage["total_bytes"]
    assert f"{facts['stages'][0]['activations_bytes']:,} = " in text
    assert "unknown number of steps: data.train is not here; give --rows-per-epoch N, or run.steps=N" in text
    kinds = [each["kind"] for each in facts["traffic"]]
    assert kinds == ["tensor parallel", "pipeline", "gradients", "weights", "tied embedding"]


def test_the_equations_of_the_memory_add_up(run):
    _, text, _ = run(*STARCODER, "--gpus", 64, "parallel.pp=4", "data.rows_per_micro_batch=1", "memory.recompute=full")
    for line in re.findall(r"^ +(?:weights|gradients|optimizer) [^(]+(?:[(][^o].+[)])?", text, re.MULTILINE):
        total, bytes_each, *counts = map(int, re.findall(r"\d+", line.replace(",", "")))
        assert total == bytes_each * sum(counts), line
    equation = re.search(r"activations .+ at the model's ends", text)[0].replace(",", "")
    total, layers, tokens, kept, ends = map(int, re.findall(r"\d+", equation))
    assert total == layers * tokens * kept + ends and layers == 40
    assert "recomputed from every layer's input" in text
    assert "40 layers in flight = 10 layers x 4.00 micro-batches" in text


@pytest.mark.parametrize("changes, line", [
    (["parallel.pp=4", "parallel.virtual_stages=2"], "40 layers = 4 stages x 10, each in 2 pieces"),
    (["parallel.pp=16"], "40 layers = 2 + 2 + 2 + 2 + 3 + 3 + 3 + 3 + 3 + 3 + 3 + 3 + 2 + 2 + 2 + 2 on the stages")])
def test_layers_are_said_to_be_dealt_out_as_they_are(run, changes, line):
    code, text, _ = run(*STARCODER, "--gpus", 64, "data.rows_per_micro_batch=1", *changes)
    assert code == 0 and line + "\n" in text


def test_model_and_data_of_the_config_are_used_where_they_are_here(run, here, dataset):
    code, text, error = run(here, "--gpus", 2, "--gpu", "h100")
    assert code == 0, error
    config = plan.read(str(here), [])
    trained = setup.prepare(config, Process(0, 2, 0, 2, "127.0.0.1", 0))
    assert all(line in text for line in trained.plan.lines()[:4])
    assert f"{trained.loader.rows_per_epoch} rows/epoch = {trained.loader.selection.documents} documents packed" in text
    assert "load.from=" in text and "attends to, as the documents of data.train do" in text


def test_attention_is_counted_over_the_documents_own_lengths(here):
    config = plan.read(str(here), [])
    rows = run_data.rows(config, end_of_text=lambda: 0)
    lengths = setup.prepare(config, Process(0, 1, 0, 1, "127.0.0.1", 0)).loader.selection.positions.tolist()
    assert rows.pairs_per_token == pytest.approx(sum(sum(range(1, n + 1)) for n in lengths) / sum(lengths))
    assert rows.longest == max(lengths)
    windowed = run_data.rows(config, end_of_text=lambda: 0, window=5)
    assert windowed.pairs_per_token == pytest.approx(sum(min(at, 5) for n in lengths for at in range(1, n + 1)) / sum(lengths))


def test_what_does_not_fit_is_shown_refused_and_mended_by_the_advice(run):
    arguments = [*STARCODER, "--gpus", 16, "parallel.tp=4", "data.rows_per_micro_batch=8"]
    code, text, error = run(*arguments)
    assert code == 2 and "GiB on each GPU" in text and "fits:" not in text
    assert re.search(r"a100-80g: stage 0 needs [\d.]+ GiB per GPU \(weights .+\), but a GPU has 79.1 GiB\n  the nearest", error)
    advised = re.findall(r"^    (.+) \([\d.]+ GiB, [\d.]+ s/step\)$", error, re.MULTILINE)
    assert len(advised) == 4
    for changes in advised:
        assert run(*arguments, *changes.split())[0] == 0, changes


def test_what_cannot_be_split_is_refused_with_layouts_that_can(run):
    code, _, error = run(*STARCODER, "--gpus", 24, "parallel.tp=8", "parallel.pp=2")
    assert code == 2 and "24 processes cannot be split into tp=8 x pp=2" in error and "layouts of 24 GPUs that fit:\n" in error


def test_too_few_gpus_are_told_how_many_would_do(run):
    code, _, error = run(*STARCODER, "--gpus", 2, "parallel.tp=2")
    assert code == 2 and re.search(r"no layout of 2 fits; (\d+) would do:\n    .+ GiB", error)
    code, _, error = run(*STARCODER, "--gpus", 2, "--search")
    assert code == 2 and "--gpus: 2 x a100-80g do not hold it\n  no layout of 2 fits" in error


def test_the_search_ranks_and_says_how_to_take_the_first(run):
    arguments = [*STARCODER, "--gpus", 64, "--search"]
    code, text, _ = run(*arguments)
    assert code == 0 and "the fastest of each tp x pp of" in text and "the config's own" in text
    changes = re.search(r"the first that is not tight: (.+)", text)[1].split()
    assert run(*arguments[:-1], *changes)[0] == 0
    ranked = json.loads(run(*arguments, "--json", "--top", 7)[1])
    assert len(ranked) == 7 and [one["step_s"] for one in ranked] == sorted(one["step_s"] for one in ranked)
    _, every, _ = run(*arguments, "--all", "--top", 30)
    assert len(re.findall("^│", every, re.MULTILINE)) in (30, 31)


def test_adapters_are_counted_as_they_are_trained(run):
    code, text, _ = run(*STARCODER, "--gpus", 8, "lora.rank=16")
    assert code == 0
    assert "of which 55,214,080 are added by LoRA and trained" in text and " frozen)" in text
    assert "(4 x 15,464,398,848 frozen + 6 x 55,214,080 trained matrix weights)" in text


@pytest.mark.parametrize("arguments, words", [
    (["--gpus", "64", "--gpu", "a200"], "--gpu: 'a200' is unknown; known: v100-32g, a100-40g, a100-80g"),
    (["--gpus", "0"], "--gpus: 0 is not above 0"),
    (["--gpus", "8192"], "--gpus: 8192 is more than 4096"),
    (["--gpus", "64", "--mfu", "45"], "--mfu: 45.0 is no share of the peak"),
    (["--gpus", "64", "--gpus-per-node", "-4"], "--gpus-per-node: -4 is not above 0"),
    (["--gpus", "64", "--document-tokens", "9000"], "--document-tokens: 9000 does not fit into rows of data.row_tokens=8192"),
    (["--gpus", "64", "--model", "starcoder-99b"], "preset 'starcoder-99b' is unknown; known: .*starcoderbase-7b"),
    (["--gpus", "64", "parallel.tq=4"], "override 'parallel.tq=4'"),
    (["--gpus", "64", "--gpu", "v100"], "v100-32g has no bf16 units; use model.precision=fp16"),
    (["--gpus", "64", "load.from=nowhere/model", "--model", ""], "load.from: nowhere/model is not here, and there is no --mod"),
])
def test_what_cannot_be_is_refused_in_words(run, arguments, words):
    code, _, error = run(*STARCODER, *arguments)
    assert code == 2 and re.search(words, error), error


def test_a_model_that_is_nowhere_named_is_not_guessed(run):
    code, _, error = run(STARCODER[0], "--gpus", 64, "--gpu", "a100-80g")
    assert code == 2 and "load.from: names no folder, and there is no --model; add --model PRESET, one of llama-7b" in error


def test_what_stands_for_the_model_or_the_data_contradicts_those_that_are_here(run, here):
    code, _, error = run(here, "--gpus", 1, "--gpu", "h100", "--model", "llama-7b")
    assert code == 2 and "--model: llama-7b is another model than the one in load.from=" in error
    code, _, error = run(here, "--gpus", 1, "--gpu", "h100", "--rows-per-epoch", 5)
    assert code == 2 and "stand for data that are not here, but data.train names" in error


def test_a_document_that_the_model_was_not_made_for_is_refused(run, dataset, tmp_path):
    toml = f'[run]\nepochs = 1\n[data]\ntrain = ["{dataset}"]\nrow_tokens = 64\nrows_per_step = 4\n'
    (tmp_path / "run.toml").write_text(toml, encoding="utf-8")
    command = (tmp_path / "run.toml", "--gpus", 1, "--gpu", "h100", "--model", "starcoderbase-1b")
    assert run(*command)[0] == 0
    short = dataclasses.replace(families.preset("starcoderbase-1b"), positions=20)
    with mock.patch.object(families, "preset", lambda name: short):
        code, _, error = run(*command)
    assert code == 2 and "data.row_tokens: 64 lets in a document of 33 positions, but the model was made for 20" in error


def test_a_node_of_four_has_its_links(run):
    facts = json.loads(run(*STARCODER, "--gpus", 64, "--gpus-per-node", 4, "--network-gbit", 100, "parallel.tp=8", "--json")[1])
    slow = next(each for each in facts["traffic"] if each["kind"] == "tensor parallel")
    assert slow["link"] == "InfiniBand"
    assert slow["seconds"] == pytest.approx(slow["bytes"] / (0.75 * 100e9 / 8), rel=0.05)

"""The small models' tokenizers keep text and give transformers' ids; the models fit the quickstart's layout."""

from __future__ import annotations

import json

import pytest

from examples import make_data, make_model
from megatron_ft import families
from megatron_ft.config import Parallel
from megatron_ft.data import templates, tokenizer
from megatron_ft.data.example import Example
from megatron_ft.data.render import render
from megatron_ft.evaluation import benchmark, prompts, scenarios
from megatron_ft.evaluation.encoding import PromptEncoder
from megatron_ft.training.plan import check_layout
from tests.examples.conftest import DATA

TEXTS = ["def f(x):\n    if x:\n        return  1\n\n\n    return 23\n", "  two leading, two trailing  ", "\ttab\n\n",
         "déjà vu, 日本, 🙂 \x00", "'''quotes''' and \"\"\"more\"\"\"", "1234567890", " ", "\n"]

each_family = pytest.mark.parametrize("family", list(make_model.SIZES))


@each_family
def test_a_text_survives_the_tokenizer(family, base_models):
    ours = tokenizer.load(base_models(family))
    for text in TEXTS:
        assert ours.decode(ours.encode_text(text, first=True)) == text


@each_family
def test_ids_are_those_of_transformers(family, base_models, training_rows):
    from transformers import AutoTokenizer

    ours, theirs = tokenizer.load(base_models(family)), AutoTokenizer.from_pretrained(base_models(family))
    sides = [row[side] for row in make_data.read_rows(training_rows) for side in ("inputs", "outputs")]
    for text in TEXTS + sides:
        assert ours.begin + ours.encode_text(text, first=True) == theirs(text)["input_ids"]
    assert ours.end_of_text == theirs.eos_token_id
    assert ours.vocabulary == len(theirs)


@each_family
def test_training_ids_begin_with_the_ids_of_the_evaluators_prompt(family, base_models):
    from transformers import AutoTokenizer

    folder = base_models(family)
    ours, theirs = tokenizer.load(folder), PromptEncoder(AutoTokenizer.from_pretrained(folder))
    template = templates.get("octocoder")
    for problem in benchmark.read(DATA / "problems.jsonl").problems:
        row = make_data.pair(vars(problem))
        document = render([Example.pair(row["inputs"], row["outputs"])], template, ours)[0]
        asked = theirs.encode(prompts.prompt(scenarios.task(problem, "synthesize", "python"), template))
        assert document.ids[:len(asked)].tolist() == asked
        assert ours.decode(document.ids[len(asked):-1]).strip("\n") == problem.canonical_solution.strip("\n")


def test_llamas_sentencepiece_file_gives_the_ids_of_the_tokenizer_json(base_models, training_rows):
    folder = base_models("llama")
    piece, whole = tokenizer.load(folder / "tokenizer.model"), tokenizer.load(folder / "tokenizer.json")
    sides = [row[side] for row in make_data.read_rows(training_rows) for side in ("inputs", "outputs")]
    for first in (True, False):
        assert piece.encode_texts(TEXTS + sides, first=first) == whole.encode_texts(TEXTS + sides, first=first)


@each_family
def test_the_model_can_be_split_over_two_by_two_ranks(family, base_models):
    architecture = families.architecture_of_folder(base_models(family))
    assert check_layout(architecture, Parallel(tp=2, pp=2, sequence_parallel=True), processes=4, row_tokens=512) == 1
    assert architecture.vocabulary % 128  # so that the way back has padding to remove
    assert architecture.groups == {"starcoder": 1, "llama": 2}[family]


@each_family
def test_the_seed_decides_the_weights(family, base_models, training_rows, tmp_path):
    for name, seed in (("same", 1), ("other", 2)):
        make_model.make(family, [training_rows], tmp_path / name, seed=seed)
    read = {name: (folder / "model.safetensors").read_bytes() for name, folder in
            (("first", base_models(family)), ("same", tmp_path / "same"), ("other", tmp_path / "other"))}
    assert read["first"] == read["same"] != read["other"]
    config = json.loads((base_models(family) / "config.json").read_text())
    assert config["model_type"] == {"starcoder": "gpt_bigcode", "llama": "llama"}[family]

"""The figures of two sets of logits against brute force, and the reference of a model's first layers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_ft import families
from megatron_ft.conversion import verify_logits
from megatron_ft.errors import ConfigError
from megatron_ft.runtime import hf_files
from tests.small_models import VARIANTS

LENGTHS = [17, 1, 5, 29, 2, 42]


def test_the_figures_are_those_of_a_brute_force():
    generator = torch.Generator().manual_seed(3)
    lengths, vocabulary = [1, 70, 5], 11  # the second is longer than a piece
    expected = torch.randn(76, vocabulary, generator=generator) * 4
    found = expected + torch.randn(76, vocabulary, generator=generator)
    figures = verify_logits.compare(iter(expected.split(lengths)), found, lengths, layers=3, tolerance=1e-4)

    def probabilities(logits):
        powers = [math.exp(logit) for logit in logits]
        return [power / sum(powers) for power in powers]

    rows = list(zip(expected.double().tolist(), found.double().tolist(), strict=True))
    differences = [abs(ours - theirs) for row in rows for theirs, ours in zip(*row, strict=True)]
    divergences = [sum(p * math.log(p / q) for p, q in zip(*map(probabilities, row), strict=True)) for row in rows]
    same = [theirs.index(max(theirs)) == ours.index(max(ours)) for theirs, ours in rows]
    assert figures.largest_difference == max(differences)
    assert figures.mean_difference == pytest.approx(sum(differences) / len(differences))
    assert figures.largest_logit == max(abs(logit) for theirs, _ in rows for logit in theirs)
    assert figures.top1_agreement == sum(same) / 76 and 0.3 < figures.top1_agreement < 1
    assert figures.kl_mean == pytest.approx(sum(divergences) / 76) and figures.kl_largest == pytest.approx(max(divergences))
    assert (figures.tokens, figures.documents, figures.layers, figures.equal) == (76, 3, 3, False)


@pytest.mark.parametrize("position", [0, 2])
def test_no_number_at_all_is_never_equal(position):
    logits = torch.zeros(3, 5)
    broken = logits.clone()
    broken[position, 2] = float("nan")
    assert verify_logits.compare([logits[:1], logits[1:]], logits, [1, 2], layers=1, tolerance=0.0).equal
    figures = verify_logits.compare([logits[:1], logits[1:]], broken, [1, 2], layers=1, tolerance=1e9)
    assert not figures.equal and all(map(math.isnan, (figures.largest_difference, figures.mean_difference, figures.kl_largest)))


@pytest.mark.parametrize("family, variant", VARIANTS)
def test_the_first_layers_are_those_of_the_whole_model_and_no_other_weight_is_read(bases, monkeypatch, family, variant):
    hf, _ = bases(family, variant)
    architecture = dataclasses.replace(families.architecture_of_folder(hf), layers=2)
    documents = verify_logits.random_documents(architecture, LENGTHS)
    whole = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32, attn_implementation="eager").eval()
    layers = whole.transformer.h if family == "starcoder" else whole.model.layers
    del layers[2:]
    whole.config.num_hidden_layers = 2
    with torch.no_grad():
        expected = torch.cat([whole(document[None]).logits[0] for document in documents])
    read, names = hf_files.Weights.read, []
    monkeypatch.setattr(hf_files.Weights, "read", lambda self, name: names.append(name) or read(self, name))
    found = torch.cat([*verify_logits.reference_logits(hf, architecture, documents)])
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()
    assert names and not [name for name in names if ".2." in name or ".3." in name]


def test_documents_of_many_lengths_fill_the_row():
    assert verify_logits.document_lengths(7, longest=96) == [1, 2, 4]
    with pytest.raises(ConfigError, match="--tokens: 0, expected at least 1"):
        verify_logits.document_lengths(0, longest=96)

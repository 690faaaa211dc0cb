"""Logits against transformers: every family and variant, every layout; packed documents against documents alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_ft import families
from megatron_ft.conversion import verify_logits
from tests.small_models import VARIANTS

LENGTHS = [17, 1, 5, 29, 2, 42]  # sums to 96: a multiple of tp for sequence parallelism
TOLERANCE = 1e-4
LAYOUTS = {"one rank": {}, "tp2": {"tp": 2}, "pp2": {"pp": 2}, "tp2 x pp2": {"tp": 2, "pp": 2},
           "tp2 x pp2, sequence parallel": {"tp": 2, "pp": 2, "sequence_parallel": True},
           "tp2, sequence parallel": {"tp": 2, "sequence_parallel": True}}


def ranks(parallel: dict) -> int:
    return parallel.get("tp", 1) * parallel.get("pp", 1)


def computed(pool, checkpoint, parallel: dict, lengths: list[int], *, only: int | None = None) -> np.ndarray:
    found = pool.run(ranks(parallel), "tests.training.programs:logits", checkpoint=str(checkpoint), parallel=parallel,
                     lengths=lengths, only=only)
    (only,) = [logits for logits in found if logits is not None]
    return only


@pytest.fixture(scope="module")
def reference(bases):
    """(family, variant) -> transformers' logits, each document alone."""
    made = {}

    def logits(family: str, variant: str) -> np.ndarray:
        if (family, variant) not in made:
            hf, _ = bases(family, variant)
            architecture = families.architecture_of_folder(hf)
            documents = verify_logits.random_documents(architecture, LENGTHS)
            made[family, variant] = torch.cat([*verify_logits.reference_logits(hf, architecture, documents)]).numpy()
        return made[family, variant]

    return logits


@pytest.mark.parametrize("parallel", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("family, variant", VARIANTS)
def test_logits_equal_transformers(pool, bases, reference, family, variant, parallel):
    """The documents share a row here and are alone there, so this also shows that packed = alone."""
    logits = computed(pool, bases(family, variant)[1], parallel, LENGTHS)
    expected = reference(family, variant)
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() < TOLERANCE


@pytest.mark.parametrize("family, variant", [("starcoder2", "gqa_window"), ("mistral", "window"), ("qwen2", "untied_window")])
def test_a_window_that_is_forgotten_or_off_by_a_token_would_show(bases, reference, family, variant):
    hf, _ = bases(family, variant)
    model = AutoModelForCausalLM.from_pretrained(hf, attn_implementation="eager").eval()
    documents = verify_logits.random_documents(families.architecture_of_folder(hf), LENGTHS)
    window, differences = model.config.sliding_window, {}
    for other in (window, window - 1, window + 1, 1000):
        model.config.sliding_window = other
        with torch.no_grad():
            found = torch.cat([model(document[None]).logits[0] for document in documents]).numpy()
        differences[other] = np.abs(found - reference(family, variant)).max()
    assert differences.pop(window) == 0 and min(differences.values()) > 100 * TOLERANCE


@pytest.mark.parametrize("family, variant", [("starcoder", "mqa"), ("llama", "gqa")])
def test_a_document_in_a_row_gives_the_logits_it_gives_alone(pool, bases, family, variant):
    _, checkpoint = bases(family, variant)
    together = computed(pool, checkpoint, {}, [31, 64])
    first, second = (computed(pool, checkpoint, {}, [31, 64], only=document) for document in (0, 1))
    assert np.abs(together - np.concatenate([first, second])).max() < 1e-5

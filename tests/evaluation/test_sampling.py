"""The next token: from transformers' distribution, with each row's own numbers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from megatron_ft.evaluation import sampling
from megatron_ft.evaluation.sampling import SeededSampling, nucleus, row_seed


def test_sampling_draws_from_the_distribution() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(4000, 4)
    drawn = SeededSampling(range(4000), 1.0, 0.9, 20).choose(scores, torch.arange(4000), 7)
    share = {token: count / 4000 for token, count in Counter(drawn.tolist()).items()}
    assert share.get(3, 0) == 0
    assert share[0] == pytest.approx(0.5 / 0.95, abs=0.03)
    assert share[2] == pytest.approx(0.15 / 0.95, abs=0.03)


def test_a_nucleus_keeps_the_token_that_crosses_its_edge() -> None:
    order, share = nucleus(torch.tensor([[0.1, 0.6, 0.3]]), 0.61)
    assert order.tolist() == [[1, 2, 0]]
    assert share.tolist() == [[pytest.approx(0.6), pytest.approx(0.3), 0.0]]


def test_a_flat_nucleus_is_as_wide_as_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = torch.full((2, 1000), 1 / 1000)
    assert [(row > 0).sum().item() for row in nucleus(flat, 0.5)[1]] == [500, 500]
    steep = torch.tensor([[2.0**-place for place in range(1, 40)]])
    whole = nucleus(steep, 0.9)[1]
    monkeypatch.setattr(sampling, "FEW", 8)
    assert torch.equal(nucleus(steep, 0.9)[1], whole[:, :8])


@pytest.mark.parametrize("temperature", [0.2, 0.8, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95, 1.0])
def test_shares_are_those_of_transformers_warpers(temperature: float, top_p: float) -> None:
    scores = torch.randn(6, 700, generator=torch.Generator().manual_seed(4)) * 3
    warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, scores)).softmax(-1)
    order, share = nucleus((scores / temperature).softmax(-1), top_p)
    ours = torch.zeros_like(scores).scatter(1, order, share)
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), warped, atol=1e-6, rtol=1e-4)


def test_every_draw_of_a_share_gives_its_token() -> None:
    """The numbers of a row cut the shares where they add up: 0.5, 0.3 and 0.2 of what is drawn from."""
    scores = torch.tensor([[0.3, 0.5, 0.2]]).log()
    chosen = SeededSampling([1], 1.0, 1.0, 1)
    for drawn, token in ((0.0, 1), (0.49, 1), (0.51, 0), (0.79, 0), (0.81, 2), (0.999999, 2)):
        chosen._drawn_BT = torch.tensor([[drawn]])
        assert chosen.choose(scores, torch.tensor([0]), 0).tolist() == [token]


def test_seeds_differ_by_run_task_and_sample() -> None:
    seeds = {row_seed(seed, key, sample) for seed in (0, 1) for key in ("Own/1/synthesize", "Own/11/synthesize")
             for sample in range(12)}
    assert len(seeds) == 48
    assert all(0 <= seed < 2**63 for seed in seeds), "vLLM and torch take signed numbers"

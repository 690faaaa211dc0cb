"""A document that a step's loss jumped for is found, in every layout; steps that are no number are written too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from megatron_ft.config import parse
from megatron_ft.data.loader import Loader
from megatron_ft.data.source import open_views
from megatron_ft.runtime.device import Process
from megatron_ft.training import run_folder, setup, spikes
from tests.data.small_datasets import write_dataset
from tests.training.programs import micro_batches
from tests.training.runs import config, curve, run

PLANTED_STEP = 14
DULL = [([7] * 11, False), ([9] * 19 + [0], True)]


@pytest.fixture(scope="module")
def planted(bases, tmp_path_factory):
    """(settings of a run, number of the document that is unlike all others): it is read in step PLANTED_STEP."""
    folder = tmp_path_factory.mktemp("planted")
    dull = write_dataset(folder / "dull", [DULL] * 300, vocabulary=200)
    settings = config(bases("starcoder", "mqa")[1], dull, folder / "run", data__valid=[], data__rows_per_step=4,
                      data__train=[str(dull)], run__steps=PLANTED_STEP + 1, optim__lr=1e-2, optim__min_lr=1e-2)
    loader = setup.prepare(parse(settings), Process(0, 1, 0, 1, "127.0.0.1", 0)).loader
    chosen = [next(loader) for _ in range(PLANTED_STEP)][-1][-1].rows[0][1][1]
    answer = np.random.RandomState(1).randint(20, 190, 19).tolist()
    documents = [DULL if number != chosen else [DULL[0], ([*answer, 0], True)] for number in range(300)]
    settings["data"]["train"] = [str(write_dataset(folder / "planted", documents, vocabulary=200))]
    return settings, chosen


@pytest.mark.parametrize("size, parallel", [(1, {}), (4, {"tp": 2}), (4, {"pp": 2})], ids=["one rank", "tp2 dp2", "pp2 dp2"])
def test_the_document_that_a_spike_comes_from_is_the_worst(pool, planted, tmp_path, size, parallel):
    settings, chosen = planted
    settings["run"]["dir"] = str(tmp_path)
    lines = run(pool, size, {**settings, "parallel": parallel})
    [spike] = run_folder.read(tmp_path / run_folder.SPIKES)
    losses = curve(lines)
    assert (spike["step"], spike["reason"]) == (PLANTED_STEP, "spike")
    assert spike["loss"] == pytest.approx(losses[PLANTED_STEP - 1]) and spike["loss"] > 2 * spike["mean_before"]
    assert spike["mean_before"] == pytest.approx(np.mean(losses[:PLANTED_STEP - 1]))
    documents = spike["documents"]
    assert len(documents) == 12 == len({document["document"] for document in documents}), "each document of the step once"
    assert (documents[0]["prefix"], documents[0]["document"]) == (settings["data"]["train"][0], chosen)
    assert documents[0]["loss"] > 5 > 1 > documents[1]["loss"] >= documents[-1]["loss"] > 0
    assert {document["supervised"] for document in documents} == {20}
    assert np.mean([document["loss"] for document in documents]) == pytest.approx(spike["loss"], rel=1e-4)


def spiked(pool, folder, losses, *, factor: float, size: int = 1, overflowed: int = 0) -> list[list[int]]:
    """Of each rank the steps that are written of a run with these losses."""
    return pool.run(size, "tests.training.watch_programs:spiked", losses=losses, factor=factor, folder=str(folder),
                    overflowed=overflowed)


def test_no_spike_where_none_is_asked_for_and_every_skipped_step_is_written(pool, tmp_path):
    """On two ranks, of which one has documents whose loss is no number."""
    jump = [1.0] * 12 + [9.0]
    assert spiked(pool, tmp_path / "a", jump, factor=3.0) == [[13]]
    assert spiked(pool, tmp_path / "b", jump, factor=0.0) == [[]]
    assert spiked(pool, tmp_path / "c", jump[4:], factor=3.0) == [[]], "eight steps are too few to say what is usual"
    assert spiked(pool, tmp_path / "d", [1.0, math.nan], factor=0.0, size=2) == [[2], [2]]
    assert spiked(pool, tmp_path / "e", [*jump[:-1], math.nan, 9.0], factor=3.0, size=2) == [[13, 14]] * 2
    assert spiked(pool, tmp_path / "f", jump[:8], factor=3.0, overflowed=5) == [[5]]
    [line] = run_folder.read(tmp_path / "d" / run_folder.SPIKES)
    assert (line["reason"], line["loss"], line["mean_before"]) == ("not finite", None, None)
    assert [document["loss"] for document in line["documents"]] == [None, None, 1.0, 1.0]


def test_a_loss_that_stays_high_is_a_spike_only_at_first(pool, tmp_path):
    """The mean goes up with it: a run that has diverged does not fill the disk."""
    losses = [1.0] * 50 + [4.0] * 50
    [steps] = spiked(pool, tmp_path, losses, factor=2.0)
    assert steps == [*range(51, 51 + len(steps))]
    means = [np.mean(losses[number - 51:number - 1]) for number in range(51, 101)]
    assert len(steps) == sum(2 * mean < 4.0 for mean in means) < 20


def test_losses_of_documents_are_those_of_their_supervised_tokens():
    """Worked out by hand: two rows of 8 in a micro-batch, the first with room left; each target weighs 1."""
    rows = [[([1, 2, 3], [False, True, True]), ([4, 5, 6, 7], [False, True, False, True])],
            [([8] * 9, [False] + [True] * 8)]]
    loss = torch.tensor([[1.0, 3, 2, 100, 6, 50, 50, 50, *range(8)]])
    for weighting, expected in (("token", [2.0, 4.0, 3.5]), ("target", [2.0, 4.0, 3.5])):
        [batch] = micro_batches(rows, 8, weighting, 2, 0, 1)
        found = spikes.document_losses([batch], [loss])
        assert [each.loss for each in found] == expected
        assert [(each.prefix, each.document, each.supervised) for each in found] == [("memory", 0, 2), ("memory", 1, 2),
                                                                                     ("memory", 2, 8)]
    uneven = [[([1, 2, 3, 4, 5], [False, True, True, False, True])]]
    [batch] = micro_batches(uneven, 8, "target", 1, 0, 1)
    [found] = spikes.document_losses([batch], [torch.tensor([[2.0, 4, 100, 9, 50, 50, 50, 50]])])
    assert found.loss == (3 + 9) / 2


def test_every_document_of_real_rows_is_where_it_is_placed(dataset):
    views, _ = open_views([str(dataset)])
    for batch in next(Loader(views, row_tokens=96, rows_per_step=12, rows_per_micro_batch=4)):
        placed = spikes.placed(batch)
        assert [identity for identity, _, _ in placed] == [identity for row in batch.rows for identity in row]
        for (_, number), begin, end in placed:
            assert batch.tokens[0, begin:end].tolist() == views[0].dataset.document(number)[0][:-1].tolist()

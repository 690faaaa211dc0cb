"""Every document in exactly one row, no row too full, the same plan on every machine."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ft.data.pack import Packing, pack
from megatron_ft.errors import DataError

ROW = 64
LENGTHS = st.lists(st.integers(1, ROW), max_size=60)


def best_fit_by_search(lengths: list[int], row: int) -> list[list[int]]:
    """The same rule, written as its definition: look at every row for the least room that is enough."""
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        rooms = [row - sum(lengths[member] for member in members) for members in rows]
        fitting = [room for room in rooms if room >= lengths[index]]
        if fitting:
            rows[max(at for at, room in enumerate(rooms) if room == min(fitting))].append(index)
        else:
            rows.append([index])
    return rows


@given(lengths=LENGTHS)
def test_every_document_is_in_exactly_one_row_and_no_row_overflows(lengths):
    rows = pack(lengths, ROW)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= ROW for row in rows)


@given(lengths=LENGTHS)
def test_rooms_are_those_of_best_fit_by_definition(lengths):
    def room_left(rows: list[list[int]]) -> list[int]:
        return sorted(ROW - sum(lengths[index] for index in row) for row in rows)

    assert room_left(pack(lengths, ROW)) == room_left(best_fit_by_search(lengths, ROW))


@given(lengths=st.lists(st.integers(1, ROW), min_size=1, max_size=60), epoch=st.integers(0, 1000))
def test_an_epochs_plan_holds_every_document_once_in_equally_many_rows(lengths, epoch):
    packing = Packing(np.array(lengths), ROW)
    plan = packing.epoch(seed=3, epoch=epoch)
    assert len(plan.starts) - 1 == packing.rows == len(pack(lengths, ROW))
    assert sorted(plan.documents.tolist()) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in plan.row(row)) <= ROW for row in range(packing.rows))


def test_the_plan_without_shuffle_is_pack():
    lengths = np.random.RandomState(0).randint(1, ROW + 1, size=200)
    packing = Packing(lengths, ROW)
    plan = packing.in_order()
    assert [plan.row(row).tolist() for row in range(packing.rows)] == pack(lengths, ROW)
    assert packing.fill == pytest.approx(lengths.sum() / (packing.rows * ROW))


def test_a_plan_is_the_same_forever():
    packing = Packing(np.array([3, 2, 4, 1, 2, 3, 5, 1]), 6)
    plan = packing.epoch(seed=7, epoch=2)
    assert [plan.row(row).tolist() for row in range(packing.rows)] == [[6, 7], [2, 4], [5, 0], [1, 3]]
    assert packing.epoch(seed=7, epoch=3).documents.tolist() != plan.documents.tolist()


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(DataError, match="a document takes 7 positions, a row has 6; drop it, cut it"):
        pack([3, 7], 6)


def test_a_document_without_positions_is_refused():
    with pytest.raises(DataError, match="takes 0 positions"):
        pack([3, 0], 6)


def test_a_hundred_thousand_documents_take_a_second_or_two():
    lengths = np.random.RandomState(1).lognormal(5.5, 1, size=100_000).astype(int).clip(1, 8192)
    begin = time.process_time()
    packing = Packing(lengths, 8192)
    packing.epoch(seed=0, epoch=0)
    assert time.process_time() - begin < 5
    assert packing.fill > 0.99

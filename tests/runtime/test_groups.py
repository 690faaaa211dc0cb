"""Process groups over gloo end with their layout."""

from __future__ import annotations

LAYOUTS = [{"tp": 2}, {"pp": 2}, {}]


def test_a_layout_takes_its_threads_with_it(pool):
    for threads in pool.run(2, "tests.training.programs:threads_of_layouts", layouts=LAYOUTS * 3):
        assert threads[-1] > 0 and threads == sorted(threads, reverse=True), threads

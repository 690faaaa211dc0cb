"""What a whole run leaves behind in its process."""

from __future__ import annotations

from megatron_ft.runtime.groups import free_port
from tests.training.runs import config


def test_a_run_leaves_neither_its_model_nor_threads_behind(pool, bases, dataset, tmp_path):
    base = bases("starcoder", "mqa")[1]
    configs = [{**config(base, dataset, tmp_path / str(number), run__steps=2), "parallel": {"tp": 2}} for number in range(3)]
    ports = [free_port() for _ in configs]  # a run's store stays open until the next run has its own
    for of_rank in pool.run(2, "tests.training.programs:left_behind", configs=configs, ports=ports):
        models, threads = zip(*of_rank, strict=True)
        assert models == (0, 0, 0)
        assert 0 < threads[2] <= threads[1], threads

"""Which process this is, and which device it may use."""

from __future__ import annotations

import os

import pytest

from megatron_ft.config import Runtime
from megatron_ft.errors import ConfigError
from megatron_ft.runtime import device
from megatron_ft.runtime.device import Process


def test_torchruns_environment_wins_over_slurms():
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "n1",
                   "MASTER_PORT": "1234", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
    assert device.process_of(environment) == Process(5, 8, 1, 4, "n1", 1234)


def test_srun_with_one_task_per_gpu():
    environment = {"SLURM_PROCID": "13", "SLURM_NTASKS": "16", "SLURM_LOCALID": "5", "SLURM_JOB_ID": "123456",
                   "SLURM_STEP_NODELIST": "node7,node9", "SLURM_STEP_TASKS_PER_NODE": "8(x2)"}
    assert device.process_of(environment) == Process(13, 16, 5, 8, "node7", 20000 + 123456 % 20000)


def test_a_batch_script_itself_is_one_process():
    assert device.process_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "5"}).size == 1


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="runtime.device: 'cuda', but torch sees no GPU .* use runtime.device=cpu"):
        device.choose("cuda")
    assert device.choose("auto") == device.choose("cpu") == "cpu"


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match="rank 3 is number 2 on its machine, which shows only 2 GPUs"):
        device.prepare(Runtime(), Process(3, 4, 2, 4, "127.0.0.1", 1))


@pytest.mark.parametrize("before, then", [(None, "1"), ("8", "8")])
def test_a_gpu_has_one_queue_of_work_before_its_context_is_made(monkeypatch, before, then):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    variable, seen = "CUDA_DEVICE_MAX_CONNECTIONS", []
    monkeypatch.setenv(variable, before or "")
    if before is None:
        monkeypatch.delenv(variable)
    monkeypatch.setattr("torch.cuda.set_device", lambda number: seen.append((number, os.environ[variable])))
    assert device.prepare(Runtime(), Process(3, 4, 1, 2, "127.0.0.1", 1)) == "cuda"
    assert seen == [(1, then)]

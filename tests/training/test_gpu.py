"""Training on a CUDA device: run where one is lent, skipped elsewhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tomli_w
import torch

from megatron_ft.training import run_folder
from tests.training.runs import config, curve

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("family, variant", [("starcoder", "mqa"), ("llama", "gqa")])
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-4), ("bf16", 1e-2)])
def test_cuda_gives_the_cpus_curve(bases, dataset, tmp_path, family, variant, precision, tolerance):
    curves = []
    for device, chosen in (("cpu", "fp32"), ("cuda", precision)):
        settings = config(bases(family, variant)[1], dataset, tmp_path / device, model__precision=chosen,
                          runtime__device=device)
        (tmp_path / f"{device}.toml").write_text(tomli_w.dumps(settings))
        subprocess.run([sys.executable, "-m", "megatron_ft.train", str(tmp_path / f"{device}.toml")], check=True)
        curves.append(curve(run_folder.read(tmp_path / device / run_folder.METRICS)))
    assert curves[1] == pytest.approx(curves[0], rel=tolerance)

"""The whole road works: a small model of each family, trained at TP2 x PP2, answers what it has learnt by heart."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.examples.conftest import ROOT

LIMIT_S = 8 * 60
LIMIT_BYTES = 6 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("family", ["starcoder", "llama"])
def test_pass_at_1_is_0_before_training_and_1_on_the_memorised_problems_after(family, tmp_path):
    output = tmp_path / "quickstart"
    done = subprocess.run(["bash", "examples/quickstart.sh", family, "--device", "cpu", "--output", str(output)],
                          cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          timeout=2 * LIMIT_S)
    assert done.returncode == 0, done.stdout[-6000:]
    found = json.loads((output / "quickstart.json").read_text())
    assert found["pass@1"]["before"] == 0.0
    assert found["pass@1"]["after"] == 1.0
    assert found["problems"] == {"before": 12, "after": 12, "held_out": 4}
    assert found["peak_bytes"] < LIMIT_BYTES
    assert found["seconds"] < LIMIT_S
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    for stage in found["stages"]:  # printed before it ran, as one would type it
        assert f"\n$ {stage['command'].split()[0]} " in done.stdout

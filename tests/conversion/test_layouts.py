"""Converted weights load into megatron-core at every TP x PP, and what it saves there comes back bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_ft.conversion import hf_to_megatron, megatron_to_hf, streams
from megatron_ft.conversion.torch_dist import TorchDistSource
from tests.conversion.resave import SAVED
from tests.small_models import VARIANTS, make_hf_model


@pytest.fixture(scope="module")
def resaved(tmp_path_factory):
    """Folder with every variant's Hugging Face model, its converted checkpoint, and its checkpoint of each layout."""
    root = tmp_path_factory.mktemp("layouts")
    for family, variant in VARIANTS:
        make_hf_model(family, variant, root / f"hf-{family}-{variant}")
        hf_to_megatron.convert(root / f"hf-{family}-{variant}", root / f"{family}-{variant}")
    worker = Path(__file__).parent / "resave.py"
    environment = {**os.environ, "PYTHONPATH": str(worker.parents[2])}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4",
                           str(worker), str(root)], capture_output=True, text=True, check=False, timeout=600,
                          env=environment)
    assert done.returncode == 0, done.stderr[-6000:]
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name, tp, pp", [(name, *layout) for layout, names in SAVED.items() for name in names])
def test_what_megatron_core_saves_at_any_layout_comes_back_bit_for_bit(resaved, name, tp, pp, tmp_path):
    back = megatron_to_hf.convert(resaved / f"{name}-tp{tp}-pp{pp}", tmp_path / "back")
    expected = load_file(resaved / f"hf-{name}" / "model.safetensors")
    found = load_file(back / "model.safetensors")
    assert sorted(found) == sorted(expected)
    for tensor in expected:
        assert torch.equal(found[tensor], expected[tensor]), tensor


@pytest.mark.slow
@pytest.mark.parametrize("tp, pp, rows", [(1, 1, 256), (2, 1, 256)])
def test_megatron_core_pads_the_vocabulary_that_the_converter_leaves_as_it_is(resaved, tp, pp, rows):
    assert TorchDistSource(resaved / "llama-gqa/release").shape("output_layer.weight") == (203, 48)
    padded = TorchDistSource(resaved / f"llama-gqa-tp{tp}-pp{pp}")
    assert padded.shape("output_layer.weight") == (rows, 48)
    assert not streams.whole(padded, "output_layer.weight")[203:].any()


@pytest.mark.slow
def test_the_converter_stores_what_megatron_core_stores(resaved):
    """Same keys (extra states too), same shapes but for padding: the two cannot be told apart by a loader."""
    from megatron_ft.conversion.dcp_metadata import read_metadata

    for family, variant in VARIANTS:
        ours = read_metadata(resaved / f"{family}-{variant}/release").state_dict_metadata
        theirs = read_metadata(resaved / f"{family}-{variant}-tp2-pp2").state_dict_metadata
        assert set(theirs) <= set(ours)
        assert set(ours) - set(theirs) <= {"decoder.final_layernorm._extra_state/shard_0_1"}
        for key, entry in theirs.items():
            if hasattr(entry, "size") and "word_embeddings" not in key and "output_layer" not in key:
                assert entry.size == ours[key].size, key

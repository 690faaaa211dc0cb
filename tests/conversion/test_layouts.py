"""Converted weights load into megatron-core at every TP x PP, and what it saves there comes back bit for bit."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

from megatron_ft.conversion import hf_to_megatron, megatron_to_hf, streams
from megatron_ft.conversion.torch_dist import TorchDistSource
from tests.processes import Pool
from tests.small_models import VARIANTS, hf_config, make_hf_model, make_random_model

LAYOUTS = list(itertools.product((1, 2, 4), (1, 2, 4)))
GROUPS = {"starcoder-kv1": ("starcoder", {}), "llama-kv2": ("llama", {}), "llama-kv8": ("llama", {"num_key_value_heads": 8}),
          "llama-kv1": ("llama", {"num_key_value_heads": 1})}
"""Name -> family and what its model of eight heads and layers has otherwise; the eight of LLaMA has two key and value heads."""
OTHERS = ["-".join(variant) for variant in VARIANTS]


@pytest.fixture(scope="module")
def resaved(pool, tmp_path_factory):
    """Folder with each Hugging Face model, its converted checkpoint, and what megatron-core saved at each layout."""
    root = tmp_path_factory.mktemp("layouts")
    for name, (family, more) in GROUPS.items():
        config = hf_config(family, "eight")
        config.update(more)
        make_random_model(config, root / f"hf-{name}")
    for family, variant in VARIANTS:
        make_hf_model(family, variant, root / f"hf-{family}-{variant}")
    for name in [*GROUPS, *OTHERS]:
        hf_to_megatron.convert(root / f"hf-{name}", root / name)
    workers = Pool(16, preload=["megatron_ft.training.checkpoint", "tests.conversion.resave"])
    try:
        for tp, pp in LAYOUTS:
            workers.run(tp * pp, "tests.conversion.resave:resave_all", root=str(root), names=list(GROUPS), tp=tp, pp=pp)
    finally:
        workers.close()
    pool.run(4, "tests.conversion.resave:resave_all", root=str(root), names=OTHERS, tp=2, pp=2)
    return root


def assert_comes_back(resaved, name, tp, pp, tmp_path):
    back = megatron_to_hf.convert(resaved / f"{name}-tp{tp}-pp{pp}", tmp_path / "back")
    expected, found = (load_file(folder / "model.safetensors") for folder in (resaved / f"hf-{name}", back))
    assert sorted(found) == sorted(expected)
    for tensor in expected:
        assert torch.equal(found[tensor], expected[tensor]), tensor


@pytest.mark.slow
@pytest.mark.parametrize("tp, pp", LAYOUTS)
@pytest.mark.parametrize("name", GROUPS)
def test_what_megatron_core_loads_and_saves_at_any_layout_comes_back_bit_for_bit(resaved, name, tp, pp, tmp_path):
    assert_comes_back(resaved, name, tp, pp, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_variant_of_every_family_comes_back_from_a_layout(resaved, name, tmp_path):
    assert_comes_back(resaved, name, 2, 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("tp, pp, rows", [(1, 1, 256), (2, 1, 256), (4, 4, 512)])
def test_megatron_core_pads_the_vocabulary_that_the_converter_leaves_as_it_is(resaved, tp, pp, rows):
    assert TorchDistSource(resaved / "llama-kv2/release").shape("output_layer.weight") == (203, 48)
    padded = TorchDistSource(resaved / f"llama-kv2-tp{tp}-pp{pp}")
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

"""The step-time model against formulas worked out by hand, and the search against what it must and must not find."""

from __future__ import annotations

import dataclasses

import pytest

from megatron_ft import families
from megatron_ft.config import parse, read
from megatron_ft.errors import ConfigError
from megatron_ft.training import gpus, layout_search
from megatron_ft.training.estimate import estimate
from megatron_ft.training.plan_facts import overrides
from megatron_ft.training.step_time import MATRIX_EFFICIENCY, NARROW

A100 = gpus.find("a100-80g")
GIB = gpus.GIB


def config(**fields):
    tree = {"run": {"dir": "r", "steps": 9}, "load": {"from": "b"}, "model": {"attention_dropout": 0.0, "hidden_dropout": 0.0},
            "data": {"train": ["d"], "row_tokens": 4096, "rows_per_step": 64}}
    for name, value in fields.items():
        section, field = name.split("__")
        tree.setdefault(section, {})[field] = value
    return parse(tree)


def llama(processes, gpu=A100, **fields):
    return estimate(config(**fields), families.preset("llama2-7b"), gpu, processes=processes)


def traffic(one, kind):
    return next(each for each in one.time.traffic if each.kind == kind)


def test_matrix_products_take_their_flops_over_the_peak():
    """One GPU: 6 FLOPs per weight and token, at the efficiency of products 4096 wide; the head's are not narrow."""
    one = llama(1, parallel__tp=1)
    layers, head = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008), 4096 * 32000
    wide = 4096 / (4096 + NARROW)
    expected = 6 * 64 * 4096 * (layers / wide + head) / (312e12 * MATRIX_EFFICIENCY)
    assert one.time.matrices_s == pytest.approx(expected, rel=1e-9)
    assert one.time.traffic == () and one.time.bubble_s == 0 and one.mfu < MATRIX_EFFICIENCY


def test_tensor_parallelism_sends_four_all_reduces_a_layer_and_micro_batch():
    """A ring all-reduce of n bytes sends 2 (t - 1) / t n; the embedding and the head's gradient have one each."""
    row = 2 * 4096 * 4096
    expected = 64 * (32 * 4 + 2) * row * 2 * 3 / 4
    assert traffic(llama(4, parallel__tp=4), "tensor parallel").bytes == pytest.approx(expected)
    cut = llama(4, parallel__tp=4, parallel__sequence_parallel=True)
    gathers_again = 64 * 32 * 2 * row * 3 / 4
    assert traffic(cut, "tensor parallel").bytes == pytest.approx(expected + gathers_again)


def test_data_parallelism_reduces_fp32_gradients_and_gathers_weights():
    one, whole = llama(8), llama(8, parallel__distributed_optimizer=False)
    elements = one.memory[0].state.buffer_elements
    assert traffic(one, "gradients").bytes == pytest.approx(4 * elements * 7 / 8)
    assert traffic(one, "weights").bytes == pytest.approx(2 * elements * 7 / 8)
    assert [each.kind for each in whole.time.traffic] == ["gradients"]
    assert traffic(whole, "gradients").bytes == pytest.approx(2 * 4 * whole.memory[0].state.buffer_elements * 7 / 8)


@pytest.mark.parametrize("fields, kind, link", [
    ({"parallel__tp": 8}, "tensor parallel", "NVLink"), ({"parallel__tp": 8, "parallel__pp": 2}, "pipeline", "InfiniBand"),
    ({"parallel__tp": 2}, "gradients", "InfiniBand"), ({"parallel__tp": 2, "parallel__pp": 4}, "gradients", "NVLink")])
def test_ranks_are_laid_on_nodes_in_the_order_tp_dp_pp(fields, kind, link):
    assert traffic(llama(16, **fields), kind).link == link


def test_a_ring_over_nodes_has_the_adapters_of_all_its_members_on_a_node():
    """tp 8: one member on each node, one adapter; tp 2: four of them."""
    narrow, wide = (traffic(llama(16, parallel__tp=tp), "gradients") for tp in (8, 2))
    assert (wide.bytes / wide.seconds) / (narrow.bytes / narrow.seconds) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("virtual", [1, 2, 4])
def test_the_bubble_is_that_of_the_schedule(virtual):
    """(pp - 1) / (micro-batches x virtual stages) of the computing, where stages are alike and links fast."""
    fast = dataclasses.replace(A100, network_bandwidth=1e15, node_bandwidth=1e15, latency_s=0.0)
    architecture = dataclasses.replace(families.preset("llama2-7b"), vocabulary=128)
    one = estimate(config(parallel__pp=4, parallel__virtual_stages=virtual), architecture, fast, processes=4)
    computing = one.time.matrices_s + one.time.attention_s + one.time.elementwise_s
    assert one.time.bubble_s / computing == pytest.approx(3 / (64 * virtual), rel=0.01)


def test_recomputing_all_costs_a_forward_pass_and_norms_next_to_nothing():
    """A third of the layers' matrix products, two of attention's seven, three of eight passes through memory."""
    whole, norms, none = (llama(8, memory__recompute=how, memory__modules=("layernorm",)).time
                          for how in ("full", "selective", "none"))
    head = 6 * 64 * 4096 * 4096 * 32000 / 8 / (312e12 * MATRIX_EFFICIENCY)
    assert none.recompute_s == 0
    expected = (whole.matrices_s - head) / 3 + whole.attention_s * 2 / 7 + whole.elementwise_s * 3 / 8
    assert whole.recompute_s == pytest.approx(expected, rel=0.1)
    assert 0 < norms.recompute_s < 0.1 * whole.recompute_s


def test_a_slower_link_or_gpu_makes_a_slower_step():
    base = llama(16, parallel__tp=2, parallel__pp=2).time.total_s
    for field in ("half_flops", "memory_bandwidth", "node_bandwidth", "network_bandwidth"):
        slower = dataclasses.replace(A100, **{field: getattr(A100, field) / 4})
        assert llama(16, slower, parallel__tp=2, parallel__pp=2).time.total_s > base


def test_what_does_not_fit_says_where_the_bytes_are():
    one = llama(1)
    assert not one.fits and one.tight
    with pytest.raises(ConfigError, match=r"a100-80g: stage 0 needs 1\d\d\.\d GiB per GPU \(weights 12\.6, gradients 25\.1, "
                                          r"optimizer 75\.3, .* but a GPU has 79\.1 GiB"):
        one.require_fit()


def test_a_gpu_must_hold_the_reserve_too():
    one = llama(4, parallel__tp=4)
    exact = dataclasses.replace(A100, memory_bytes=one.fullest.total)
    assert llama(4, exact, parallel__tp=4).fits
    assert not llama(4, dataclasses.replace(exact, memory_bytes=one.fullest.total - 1), parallel__tp=4).fits
    assert one.fullest.reserve == pytest.approx(0.9 * GIB + 0.05 * (one.fullest.activations + one.fullest.temporary), abs=9)


def test_the_roots_that_adam_makes_count_where_activations_are_fewer():
    """fp32 roots of all second moments, while no activation is alive."""
    short = llama(1, data__row_tokens=16, data__rows_per_step=1)
    stage = short.fullest
    assert stage.temporary == 4 * stage.state.optimizer_elements - stage.activations
    assert llama(1).fullest.temporary < 4 * stage.state.optimizer_elements - stage.activations


def test_what_to_write_for_a_layout_gives_that_layout(tmp_path):
    own = {"memory__layers": 2, "memory__modules": ("mlp",)}
    (tmp_path / "own.toml").write_text(config(**own).to_toml(), encoding="utf-8")
    for change in ({"memory__recompute": "full", "memory__layers": 1}, {"memory__recompute": "selective"},
                   {"memory__recompute": "selective", "memory__modules": ("layernorm", "mlp"), "data__rows_per_micro_batch": 2},
                   {"parallel__pp": 2, "parallel__stage_layers": (17, 15), "parallel__tp": 2,
                    "parallel__sequence_parallel": True}):
        wanted = config(**{**own, **change})
        assert read(tmp_path / "own.toml", overrides(wanted, config(**own))) == wanted, change


def test_the_search_finds_only_what_fits_best_first_and_the_configs_own_layout():
    own = config(parallel__tp=4, parallel__pp=2, parallel__sequence_parallel=True)
    found = layout_search.search(own, families.preset("llama2-7b"), A100, processes=32)
    seconds = [one.time.total_s for one in found]
    assert seconds == sorted(seconds) and all(one.fits for one in found)
    assert [overrides(one.config, own) for one in found].count([]) == 1
    assert all(one.split.tp * one.split.pp * one.split.dp == 32 and one.split.tp <= 8 for one in found)
    seen = {(one.split.tp, one.split.pp, one.config.parallel.virtual_stages, one.split.rows_per_micro_batch,
             one.config.parallel.sequence_parallel, one.config.memory.recompute) for one in found}
    assert {(1, 2, 1, 1, False, "full"), (8, 4, 2, 1, True, "none"), (2, 1, 1, 4, True, "selective")} <= seen


def test_the_search_keeps_an_own_layout_that_it_would_not_have_tried():
    own = config(parallel__pp=2, parallel__stage_layers=(17, 15), memory__recompute="full", memory__layers=1)
    found = layout_search.search(own, families.preset("llama2-7b"), A100, processes=8)
    assert [] in [overrides(one.config, own) for one in found]
    other = config(parallel__tp=16, parallel__sequence_parallel=True)  # over two nodes
    found = layout_search.search(other, families.preset("llama2-7b"), A100, processes=16)
    assert {one.split.tp for one in found} == {1, 2, 4, 8, 16}
    assert [one.split.tp for one in found].count(16) == 1


def test_heads_that_are_not_a_power_of_two_are_cut_where_they_can_be():
    own = config()
    found = layout_search.search(own, families.preset("starcoderbase-3b"), A100, processes=8)
    assert {one.split.tp for one in found} == {1, 2}


def test_the_nearest_layouts_change_least():
    own = config(parallel__tp=2, parallel__pp=4)
    found = layout_search.search(own, families.preset("llama2-7b"), A100, processes=16)
    near = layout_search.nearest([one for one in found if one.split.tp == 4], own)
    assert near[0].split.tp == 4 and near[0].split.pp == 4 and overrides(near[0].config, own) == ["parallel.tp=4"]


def test_more_gpus_are_looked_for_where_none_of_so_many_do():
    count, best = layout_search.fewest_gpus(config(), families.preset("llama2-70b"), A100, above=8)
    assert count == 32 and best.fits and not best.tight
    huge = dataclasses.replace(families.preset("llama2-70b"), ffn=28672 * 4096)
    assert layout_search.fewest_gpus(config(), huge, A100, above=2048) is None


@pytest.mark.parametrize("count", [0, 5000])
def test_counts_that_cannot_be_are_refused(count):
    with pytest.raises(ConfigError, match=f"--gpus: {count} is not a number from 1 to 4096"):
        layout_search.search(config(), families.preset("llama2-7b"), A100, processes=count)


def test_a_gpu_is_found_by_its_name_and_an_unknown_one_refused():
    assert gpus.find("H100").memory_bytes == gpus.find("h100-80g").memory_bytes
    with pytest.raises(ConfigError, match="--gpu: 'a100' is unknown; known: v100-32g, a100-40g.*comes with 40 and with 80 GB"):
        gpus.find("a100")
    with pytest.raises(ConfigError, match="v100-32g has no bf16 units; use model.precision=fp16"):
        llama(8, gpus.find("v100"))

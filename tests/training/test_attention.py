"""Packed attention against one dense softmax over the whole row with a block-diagonal causal mask."""

from __future__ import annotations

import pytest
import torch

from megatron_ft.training import attention
from megatron_ft.training.attention import attend, can_use_flash, flash_available

LENGTHS = [5, 1, 17, 0, 9]


def brute_force(q_THE, k_TKE, v_TKE, lengths, scale, window=None):
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position = torch.arange(len(document))
    allowed_TT = (document[:, None] == document) & (position[:, None] >= position)
    if window is not None:
        allowed_TT &= position[:, None] - position < window
    outputs = []
    for head in range(q_THE.shape[1]):
        group = head // (q_THE.shape[1] // k_TKE.shape[1])
        scores = (q_THE[:, head] @ k_TKE[:, group].T * scale).masked_fill(~allowed_TT, float("-inf"))
        outputs.append(scores.softmax(-1) @ v_TKE[:, group])
    return torch.cat(outputs, dim=1)


def tensors(heads: int, groups: int, *, device: str = "cpu", dtype: torch.dtype = torch.float64, width: int = 7):
    generator = torch.Generator().manual_seed(heads * 10 + groups)
    shapes = [(sum(LENGTHS), heads, width), (sum(LENGTHS), groups, width), (sum(LENGTHS), groups, width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_() for shape in shapes]


def borders(device: str = "cpu") -> torch.Tensor:
    return torch.tensor([0, *LENGTHS]).cumsum(0).to(device, torch.int32)


@pytest.mark.parametrize("heads, groups", [(6, 6), (6, 2), (6, 1), (1, 1)])
def test_packed_attention_is_the_dense_one_under_a_block_diagonal_mask(heads, groups):
    ours, theirs = tensors(heads, groups), tensors(heads, groups)
    assert_equal(attend(*ours, borders(), scale=0.3), brute_force(*theirs, LENGTHS, 0.3), ours, theirs)


def assert_equal(found, expected, ours, theirs):
    """The same values, and the same gradients of a sum with different weights."""
    torch.testing.assert_close(found, expected)
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("block", [4, 1024])
@pytest.mark.parametrize("window", [1, 2, 5, 6, 16, 17, 18, 40])
def test_a_window_is_the_dense_one_with_what_is_before_it_masked(monkeypatch, window, block):
    monkeypatch.setattr(attention, "BLOCK", block)
    ours, theirs = tensors(6, 2), tensors(6, 2)
    assert_equal(attend(*ours, borders(), scale=0.3, window=window), brute_force(*theirs, LENGTHS, 0.3, window), ours, theirs)


def test_documents_that_fit_into_the_window_need_no_mask(monkeypatch):
    monkeypatch.setattr(attention, "_window_mask", None)
    found = attend(*tensors(6, 2), borders(), scale=0.3, window=max(LENGTHS))
    torch.testing.assert_close(found, attend(*tensors(6, 2), borders(), scale=0.3))
    with pytest.raises(TypeError):
        attend(*tensors(6, 2), borders(), scale=0.3, window=max(LENGTHS) - 1)


@pytest.mark.parametrize("window", [None, 5])
def test_dropout_drops_and_keeps_the_mean(window):
    q, k, v = tensors(2, 1)
    torch.manual_seed(0)
    drawn = torch.stack([attend(q, k, v, borders(), scale=0.3, dropout=0.4, window=window) for _ in range(500)])
    assert not drawn[0].equal(drawn[1])
    torch.testing.assert_close(drawn.mean(0), attend(q, k, v, borders(), scale=0.3, window=window), atol=0.4, rtol=0)


def test_half_precision_in_a_window_is_the_dense_one_nearly():
    halves = tensors(6, 2, dtype=torch.bfloat16)
    found = attend(*halves, borders(), scale=0.3, window=5)
    expected = brute_force(*(tensor.double() for tensor in halves), LENGTHS, 0.3, 5)
    assert found.dtype == torch.bfloat16 and (found.double() - expected).norm() / expected.norm() < 1e-2


def test_the_flash_kernel_is_for_cuda_alone():
    assert not can_use_flash(torch.zeros(3, 2, 8, dtype=torch.bfloat16), 0.0)


@pytest.mark.parametrize("parameters, expected", [({"window_size"}, (True, True)), ({"is_causal"}, (True, False))])
def test_a_flash_kernel_without_windows_is_for_rows_that_need_none(monkeypatch, parameters, expected):
    class Cuda:
        is_cuda, dtype = True, torch.bfloat16

    monkeypatch.setattr(attention, "_flash_parameters", lambda: parameters)
    assert tuple(can_use_flash(Cuda(), 0.0, window) for window in (None, 7)) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 1, 6, 17])
@pytest.mark.parametrize("heads, groups", [(6, 6), (6, 2), (6, 1)])
def test_flash_on_cuda_is_the_dense_one(heads, groups, window):
    from megatron_ft.training.attention import _flash
    from megatron_ft.training.model import packed

    assert flash_available(), "torch.nn.attention.varlen is missing: torch 2.10 or later has it"
    q, k, v = tensors(heads, groups, device="cuda", dtype=torch.bfloat16, width=64)
    found = _flash(q, k, v, packed(borders("cuda"), max(LENGTHS)), 0.125, window)
    expected = brute_force(*(tensor.detach().double().cpu() for tensor in (q, k, v)), LENGTHS, 0.125, window)
    relative = (found.detach().double().cpu() - expected).norm() / expected.norm()
    assert relative < 1e-2


@pytest.mark.parametrize("window", [None, 50])
def test_what_attention_keeps_grows_with_the_tokens_not_with_their_pairs(window):
    tensors = [torch.randn(600, heads, 8, requires_grad=True) for heads in (6, 2, 2)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attend(*tensors, torch.tensor([0, 600], dtype=torch.int32), scale=0.3, window=window)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    assert max(storages.values()) <= 600 * 6 * 8 * 4
    assert sum(storages.values()) <= 6 * 600 * 6 * 8 * 4, "a mask for every block would be more"

"""Lets megatron-core run on the CPU over gloo: the only place that adapts its CUDA calls.

`activate` is called once per process, and only when the run's device is the CPU; nothing here touches a CUDA run.
What it adapts (each entry: what megatron-core does, what happens instead, why that is right on a CPU):

| megatron-core calls | on the CPU becomes | reason |
|---|---|---|
| torch.cuda.current_device() | torch.device("cpu") | used as `device=` of new tensors |
| torch.cuda.synchronize, set_device, empty_cache, nvtx.range_push/pop | nothing | CPU work is finished when the call returns |
| torch.cuda.Stream, Event, stream, current_stream, default_stream | an object whose methods do nothing | there is one queue of work: the thread itself |
| torch.cuda.is_current_stream_capturing | False | there are no CUDA graphs |
| torch.cuda.get_rng_state, set_rng_state, manual_seed | the CPU generator's | dropout draws from the CPU generator |
| tensor_parallel.random._get/_set_cuda_rng_state | the CPU generator's | megatron-core swaps generators per tp rank through them |
| torch.cuda.FloatTensor, HalfTensor, BFloat16Tensor, IntTensor, LongTensor, ByteTensor | the CPU types | dtype checks by isinstance; direct constructors |
| Tensor.cuda(), Module.cuda() | the object itself | it is where it must be |
| device="cuda" (or cuda:i) in torch's factories and in Tensor.to, Tensor.new_* | device="cpu" | literals in the grad scaler, clipping, schedules, checkpoint exchange |
| pin_memory=True in torch's factories, Tensor.pin_memory() | left out | pinning speeds up copies to a GPU |
| Tensor.type() called from megatron.core | "torch.cuda.FloatTensor" for "torch.FloatTensor" | the optimizers compare the name with CUDA's |
| torch.distributed.barrier(device_ids=...) | without device_ids | gloo refuses it |
| p2p_communication._p2p_ops sends tensors that the interleaved schedule frees before they are sent | copies of them | nccl keeps such a tensor alive, gloo sends whatever is in the memory by then |
| jit_fuser (torch.compile) on its small fused functions | the functions as they are | the first call would compile C++ for half a minute |
| clip_grads' norm by torch.norm in fp32 | the same in fp64 | torch's fp32 sum on the CPU is 3e-4 low at 8 million elements, and so differs between layouts |
| transformer_engine, apex | not importable in this process | their kernels and optimizers take CUDA tensors only |
| a warning when the CPU generator moves inside a CUDA generator's block | not logged | on the CPU they are one generator |
"""
# ruff: noqa: E501 - the table's rows

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch

FACTORIES = ("tensor", "as_tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "randint", "randperm",
             "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "linspace", "eye")
TENSOR_METHODS = ("to", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")
TYPES = ("FloatTensor", "HalfTensor", "BFloat16Tensor", "IntTensor", "LongTensor", "ByteTensor")
CPU = torch.device("cpu")

_active = False


class _Queue:
    """Stands for a CUDA stream or event: every method is there and does nothing."""

    device = CPU

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing()


def activate() -> None:
    """Adapt torch, as the table above says, in this process; a second call does nothing.

    Must run before megatron.core is imported, since some of its modules copy functions at import time.
    """
    global _active
    if _active:
        return
    _active = True
    for package in ("transformer_engine", "apex"):
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # importing a None entry raises ImportError
    _adapt_cuda_module()
    _adapt_tensors()
    _adapt_collectives()
    _adapt_fusion()
    _adapt_messages()
    _adapt_generators()
    _adapt_gradient_norm()


def _nothing() -> Callable[..., None]:
    """A function that does nothing; a new one each time, since torch's compiler keeps one rule per function object."""
    return lambda *_, **__: None


def _adapt_cuda_module() -> None:
    cuda = torch.cuda
    cuda.current_device = lambda: CPU
    for name in ("synchronize", "set_device", "empty_cache", "reset_peak_memory_stats"):
        setattr(cuda, name, _nothing())
    cuda.nvtx.range_push, cuda.nvtx.range_pop = _nothing(), _nothing()
    cuda.Stream = cuda.Event = _Queue
    cuda.stream = lambda _stream: contextlib.nullcontext()
    cuda.current_stream = lambda *_: _Queue()
    cuda.default_stream = lambda *_: _Queue()
    cuda.is_current_stream_capturing = lambda: False
    for name in TYPES:
        setattr(cuda, name, getattr(torch, name))


def _on_cpu(device: Any) -> Any:
    """The device, with CUDA replaced by the CPU; anything that is no CUDA device passes.

    >>> _on_cpu("cuda:1"), _on_cpu(torch.device("cuda")), _on_cpu("meta"), _on_cpu(None)
    (device(type='cpu'), device(type='cpu'), 'meta', None)
    """
    if isinstance(device, str) and device.split(":")[0] == "cuda":
        return CPU
    if isinstance(device, torch.device) and device.type == "cuda":
        return CPU
    return device


def _redirected(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with CUDA devices among its arguments replaced and pinning left out."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs:
            kwargs["device"] = _on_cpu(kwargs["device"])
        kwargs.pop("pin_memory", None)
        return function(*args, **kwargs)

    return call


def _adapt_tensors() -> None:
    # torch keeps the list of factories that `with torch.device(...)` applies to, made at first use: it has to hold the
    # originals, or transformers would build its models on the CPU instead of on "meta" and never set their buffers.
    importlib.import_module("torch.utils._device")._device_constructors()
    for name in FACTORIES:
        setattr(torch, name, _redirected(getattr(torch, name)))
    for name in TENSOR_METHODS:
        setattr(torch.Tensor, name, _redirected(getattr(torch.Tensor, name)))
    torch.Tensor.to = _first_argument_redirected(torch.Tensor.to)
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.Tensor.pin_memory = lambda self, *_: self
    torch.nn.Module.cuda = lambda self, *_: self
    torch.Tensor.type = _named_as_cuda(torch.Tensor.type)


def _first_argument_redirected(to: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(to)
    def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return to(self, *[_on_cpu(argument) for argument in args], **kwargs)

    return call


def _named_as_cuda(type_of: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(type_of)
    def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        named = type_of(self, *args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if isinstance(named, str) and caller.startswith("megatron.core"):
            return named.replace("torch.", "torch.cuda.", 1)
        return named

    return call


def _adapt_collectives() -> None:
    barrier = torch.distributed.barrier

    @functools.wraps(barrier)
    def without_device_ids(group: Any = None, async_op: bool = False, device_ids: Any = None) -> Any:
        return barrier(group=group, async_op=async_op)

    torch.distributed.barrier = without_device_ids


def _adapt_messages() -> None:
    communication = importlib.import_module("megatron.core.pipeline_parallel.p2p_communication")
    send_and_receive = communication._p2p_ops
    in_flight: list[tuple[Any, torch.Tensor]] = []

    @functools.wraps(send_and_receive)
    def from_copies(**arguments: Any) -> dict[str, Any]:
        in_flight[:] = [(work, kept) for work, kept in in_flight if not work.is_completed()]
        for name in ("tensor_send_prev", "tensor_send_next"):
            if arguments[name] is not None:
                arguments[name] = arguments[name].detach().clone()
        works = send_and_receive(**arguments)
        in_flight.extend((works[name], arguments[f"tensor_{name}"]) for name in ("send_prev", "send_next") if name in works)
        return works

    communication._p2p_ops = from_copies


def _adapt_fusion() -> None:
    """Import megatron-core for the first time: its modules compile as they are imported, which alone takes seconds."""
    compiler = torch.compile
    torch.compile = lambda function, *_, **__: function
    try:
        importlib.import_module("megatron.core.jit")  # its jit_fuser is torch.compile as it is now
    finally:
        torch.compile = compiler


def _adapt_generators() -> None:
    torch.cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    torch.cuda.manual_seed = lambda seed: torch.manual_seed(seed)
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    logging.getLogger(random.__name__).setLevel(logging.ERROR)
    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _adapt_gradient_norm() -> None:
    clip_grads = importlib.import_module("megatron.core.optimizer.clip_grads")

    def l2_norm(_chunk: Any, _flag: Any, tensor_lists: list[list[torch.Tensor]], _per_tensor: bool) -> tuple[torch.Tensor, None]:
        squares = sum(torch.linalg.vector_norm(each, dtype=torch.float64) ** 2 for each in tensor_lists[0])
        return torch.as_tensor(squares).sqrt().float().reshape(1), None

    clip_grads.l2_norm_impl = l2_norm

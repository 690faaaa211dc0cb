"""How long an optimizer step takes, from its FLOPs, its bytes on each link and the pipeline's bubble. Torch-free.

A model to rank layouts with, not a measurement: on one GPU a layer's matrix products run at a share of the peak, attention at
a smaller one, everything else at the speed of memory; collectives move their ring's bytes over the slowest link of their
group; what the engine overlaps with computing counts where it is longer than that. Narayanan et al. 2021 (arXiv 2104.04473)
has the pipeline's formulas: a step is micro-batches x the slowest stage + the bubble, which virtual stages divide.
"""

from __future__ import annotations

import dataclasses

from megatron_ft.config import Config
from megatron_ft.families.architecture import Architecture
from megatron_ft.training import flops
from megatron_ft.training.activations import Activations
from megatron_ft.training.gpus import Gpu
from megatron_ft.training.memory_model import StageMemory
from megatron_ft.training.plan import padded_vocabulary, stage_layers
from megatron_ft.training.state_bytes import BYTES, FLOAT

MATRIX_EFFICIENCY, ATTENTION_EFFICIENCY, LINK_EFFICIENCY, MEMORY_EFFICIENCY = 0.7, 0.45, 0.75, 0.75
"""Shares of the peaks that large matrices, flash attention, rings and elementwise kernels reach."""
NARROW = 96
"""A matrix product whose narrowest side is this wide runs at half of that: tiles are not filled."""
KERNELS_FORWARD, KERNELS_BACKWARD = 22, 45
"""Kernels of a layer with the local spec: none is faster than its start."""
PASSES_FORWARD, PASSES_BACKWARD = 3, 5
"""How often what a layer keeps goes through memory beside its matrix products: unfused kernels read and write it again."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What the busiest GPU sends in one step, of one kind."""

    kind: str
    link: str
    bytes: int
    seconds: float
    """Were nothing else going on."""
    exposed_s: float
    """Added to the step: what computing does not hide."""


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step by what takes them, on the pipeline stage that is slowest."""

    matrices_s: float
    attention_s: float
    elementwise_s: float
    """Norms, activation functions, residuals, and waiting for kernels to start."""
    recompute_s: float
    optimizer_s: float
    bubble_s: float
    traffic: tuple[Traffic, ...]

    @property
    def total_s(self) -> float:
        """Of the whole step."""
        computing = self.matrices_s + self.attention_s + self.elementwise_s + self.recompute_s + self.optimizer_s
        return computing + self.bubble_s + sum(one.exposed_s for one in self.traffic)


@dataclasses.dataclass(frozen=True)
class _Cost:
    """Of one micro-batch in one layer (or the head): seconds forward and backward."""

    matrices: float
    attention: float
    elementwise: float
    again: float
    """Recomputed in the backward pass."""
    exposed: float
    """Tensor-parallel communication that computing does not hide."""
    traffic_s: float
    traffic_bytes: float

    def __mul__(self, times: float) -> _Cost:
        return _Cost(*(value * times for value in vars(self).values()))

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def seconds(self) -> float:
        return self.matrices + self.attention + self.elementwise + self.again + self.exposed


def step_time(config: Config, architecture: Architecture, gpu: Gpu, *, processes: int, micro_batches: int,
              memory: tuple[StageMemory, ...], kept: Activations, pairs_per_token: float) -> StepTime:
    """The step's time.

    Args:
        memory: `memory_model.memory` of the same layout.
        kept: `activations.activations` of it.
        pairs_per_token: tokens that one attends to on average, itself counted: (n + 1) / 2 in a document of n
            (less where it is longer than the model's window).
    """
    parallel = config.parallel
    layer, head = _layer(config, architecture, gpu, kept, pairs_per_token), _head(config, architecture, gpu)
    pieces = stage_layers(architecture.layers, parallel)
    layers = [sum(pieces[stage::parallel.pp]) for stage in range(parallel.pp)]
    one = max(layer * max(layers), layer * layers[-1] + head, key=lambda stage: stage.seconds)
    messages = _messages(config, architecture, gpu, one, processes=processes)
    all_stages = layer.seconds * architecture.layers + head.seconds
    filling = max(0.0, all_stages - one.seconds) + (parallel.pp - 1) * messages.seconds  # not -1e-16 at pp=1
    whole = one * micro_batches
    traffic = [Traffic("tensor parallel", _link(gpu, parallel.tp), round(whole.traffic_bytes), whole.traffic_s, whole.exposed)]
    if parallel.pp > 1:
        traffic.append(Traffic("pipeline", _link(gpu, processes), round(messages.bytes * micro_batches),
                               messages.seconds * micro_batches, messages.exposed_s * micro_batches))
    traffic += _data_parallel(config, architecture, gpu, memory, one, processes=processes)
    return StepTime(whole.matrices, whole.attention, whole.elementwise, whole.again,
                    _optimizer(config, gpu, max(memory, key=lambda each: each.state.optimizer_elements)),
                    filling / parallel.virtual_stages, tuple(one for one in traffic if one.bytes))


def _layer(config: Config, a: Architecture, gpu: Gpu, kept: Activations, pairs_per_token: float) -> _Cost:
    tp, b = config.parallel.tp, BYTES[config.model.precision]
    tokens = config.data.row_tokens * config.data.rows_per_micro_batch
    peak = gpu.peak(config.model.precision)
    weights = sum(inputs * outputs for inputs, outputs in flops.linears(a).values())
    adapters = flops.adapter_weights(a, config.lora) / a.layers
    narrow = min(a.hidden, a.ffn // tp, a.query_width // tp, tokens)
    forward = 2 * tokens * (weights + adapters) / tp / (peak * MATRIX_EFFICIENCY * narrow / (narrow + NARROW))
    backward = forward * (2 if config.lora.rank == 0 else 1)  # frozen weights have no gradients
    attention = 4 * tokens * pairs_per_token * a.query_width / tp / (peak * ATTENTION_EFFICIENCY)
    once = kept.layer / (gpu.memory_bandwidth * MEMORY_EFFICIENCY)
    memory, memory_backward = PASSES_FORWARD * once, PASSES_BACKWARD * once
    # Attention's backward pass has five products to the forward's two.
    idle = max(0.0, KERNELS_FORWARD * gpu.launch_s - forward - attention - memory)
    idle += max(0.0, KERNELS_BACKWARD * gpu.launch_s - backward - 2.5 * attention - memory_backward)
    mlp = sum(inputs * outputs for name, (inputs, outputs) in flops.linears(a).items() if name.startswith("fc")) / weights
    again = {"none": 0.0, "full": forward + attention + memory,
             "selective": _again(config, forward * mlp, attention, memory)}[config.memory.recompute]
    exposed, seconds, sent = _tensor_parallel(config, a, gpu, tokens * b)
    return _Cost(forward + backward, 3.5 * attention, memory + memory_backward + idle, again, exposed, seconds, sent)


def _again(config: Config, mlp: float, attention: float, memory: float) -> float:
    return sum({"core_attn": attention, "mlp": mlp + memory / 2, "layernorm": memory / 4}[module]
               for module in set(config.memory.modules))


def _tensor_parallel(config: Config, a: Architecture, gpu: Gpu, bytes_per_feature: float) -> tuple[float, float, float]:
    """(exposed seconds, seconds, bytes) of one layer and micro-batch.

    Two all-reduces forward and two backward, or under sequence parallelism as many gathers and scatters, which move the same,
    and two gathers more in the backward pass; those of the backward pass run beside the weights' gradients.
    """
    tp = config.parallel.tp
    if tp == 1:
        return 0.0, 0.0, 0.0
    bandwidth = _bandwidth(gpu, tp)
    share = (tp - 1) / tp
    row = bytes_per_feature * a.hidden * share
    forward = 4 * row
    if a.groups < tp:  # queries, keys and values are gathered
        forward += bytes_per_feature * (a.heads + 2 * a.groups) * a.head_width * share
    backward = forward + (2 * row if config.parallel.sequence_parallel else 0)
    collectives = 4 if config.parallel.sequence_parallel else 2
    times = 2 if config.memory.recompute == "full" else 1
    forward_s = times * (forward / bandwidth + collectives * gpu.latency_s)
    backward_s = backward / bandwidth + collectives * gpu.latency_s
    return forward_s + backward_s * (0.5 if gpu.overlaps else 1.0), forward_s + backward_s, times * forward + backward


def _head(config: Config, a: Architecture, gpu: Gpu) -> _Cost:
    tp, b = config.parallel.tp, BYTES[config.model.precision]
    tokens = config.data.row_tokens * config.data.rows_per_micro_batch
    vocabulary = padded_vocabulary(a.vocabulary, multiple=config.model.vocabulary_multiple, tp=tp)
    products = 2 * tokens * a.hidden * vocabulary / tp * (3 if config.lora.rank == 0 else 2)
    logits = tokens * vocabulary / tp
    passes = 6 * (b + FLOAT) * logits / (gpu.memory_bandwidth * MEMORY_EFFICIENCY)  # softmax, loss and their gradients
    bandwidth, share = _bandwidth(gpu, tp), (tp - 1) / tp
    sent = 2 * 2 * b * tokens * a.hidden * share  # the embedding's output, the head's input gradient
    seconds = sent / bandwidth + 4 * gpu.latency_s if tp > 1 else 0.0
    return _Cost(products / (gpu.peak(config.model.precision) * MATRIX_EFFICIENCY), 0.0, passes, 0.0, seconds, seconds, sent)


@dataclasses.dataclass(frozen=True)
class _Messages:
    seconds: float
    exposed_s: float
    bytes: float


def _messages(config: Config, a: Architecture, gpu: Gpu, slowest: _Cost, *, processes: int) -> _Messages:
    """One micro-batch's between neighbouring stages: forward and back, for each piece of the model on a stage."""
    parallel = config.parallel
    if parallel.pp == 1:
        return _Messages(0.0, 0.0, 0.0)
    tokens = config.data.row_tokens * config.data.rows_per_micro_batch
    size = BYTES[config.model.precision] * tokens * a.hidden / (parallel.tp if parallel.sequence_parallel else 1)
    one = size / _bandwidth(gpu, processes) + gpu.latency_s
    seconds = 2 * parallel.virtual_stages * one
    if parallel.virtual_stages == 1 or not gpu.overlaps:
        return _Messages(seconds, seconds, 2 * size * parallel.virtual_stages)
    # The interleaved schedule sends while the next piece is computed.
    return _Messages(seconds, max(0.0, seconds - slowest.seconds), 2 * size * parallel.virtual_stages)


def _data_parallel(config: Config, a: Architecture, gpu: Gpu, memory: tuple[StageMemory, ...], one: _Cost, *,
                   processes: int) -> list[Traffic]:
    parallel, b = config.parallel, BYTES[config.model.precision]
    dp = processes // (parallel.tp * parallel.pp)
    elements = max(stage.state.buffer_elements for stage in memory)
    found = []
    if dp > 1:
        bandwidth, share = _ring(gpu, parallel.tp, dp), (dp - 1) / dp
        link = _link(gpu, parallel.tp * dp)
        backward, forward = one.seconds * 2 / 3, one.seconds / 3
        gradients = FLOAT * elements * share * (1 if parallel.distributed_optimizer else 2)
        seconds = gradients / bandwidth + gpu.latency_s
        hidden = backward if parallel.overlap_grad_reduce and gpu.overlaps else 0.0
        found.append(Traffic("gradients", link, round(gradients), seconds, max(0.05 * seconds, seconds - hidden)))
        if parallel.distributed_optimizer:
            seconds = b * elements * share / bandwidth + gpu.latency_s
            overlapped = parallel.overlap_param_gather and parallel.overlap_grad_reduce and gpu.overlaps
            found.append(Traffic("weights", link, round(b * elements * share), seconds,
                                 max(0.05 * seconds, seconds - forward) if overlapped else seconds))
    if a.tied_head and parallel.pp > 1 and config.lora.rank == 0:  # gradients of its two copies, first and last stage
        vocabulary = padded_vocabulary(a.vocabulary, multiple=config.model.vocabulary_multiple, tp=parallel.tp) // parallel.tp
        sent = FLOAT * vocabulary * a.hidden
        seconds = sent / _bandwidth(gpu, processes) + gpu.latency_s
        found.append(Traffic("tied embedding", _link(gpu, processes), sent, seconds, seconds))
    return found


def _optimizer(config: Config, gpu: Gpu, stage: StageMemory) -> float:
    """Reads gradients for their norm, then gradients, weights and moments; writes weights, moments and the model's weights."""
    moments = 1 if config.optim.optimizer == "sgd" else 2
    moved = stage.state.optimizer_elements * FLOAT * (2 * (moments + 1) + 3) + FLOAT * stage.state.buffer_elements
    return moved / (gpu.memory_bandwidth * MEMORY_EFFICIENCY) + 50 * gpu.latency_s


def _bandwidth(gpu: Gpu, ranks: int) -> float:
    """Of a group of that many neighbouring ranks, bytes/s of each."""
    return LINK_EFFICIENCY * (gpu.node_bandwidth if ranks <= gpu.per_node else gpu.network_bandwidth)


def _ring(gpu: Gpu, tp: int, dp: int) -> float:
    """Of a data-parallel group: every tp-th rank. Its members on a node bring their network adapters together."""
    if tp * dp <= gpu.per_node:
        return LINK_EFFICIENCY * gpu.node_bandwidth
    on_a_node = max(1, gpu.per_node // tp)
    return LINK_EFFICIENCY * min(gpu.node_bandwidth, on_a_node * gpu.network_bandwidth)


def _link(gpu: Gpu, ranks: int) -> str:
    return gpu.node_link if ranks <= gpu.per_node else gpu.network_link

"""What each GPU can do and hold: one table for the plan and for MFU. Torch-free.

Sources, in the order of the fields. Memory as torch reports it ("GPU 0 has a total capacity of ..." in public out-of-memory
messages): below the number on the box, which counts decimal gigabytes and what the driver keeps. Matrix peaks without sparsity,
memory and NVLink bandwidth: NVIDIA's data sheets (V100, A100, L40S, H100, H200), where NVLink is the sum of both directions,
here one. Network: the DGX system that holds the GPU (DGX-1 V: 4 x EDR for 8 GPUs, DGX A100: 8 x HDR, DGX H100 and H200: 8 x
NDR); for L40S 200 Gb/s per pair of GPUs, as in NVIDIA's reference servers.
"""

from __future__ import annotations

import dataclasses
import re

from megatron_ft.errors import ConfigError

GIB = 1024 ** 3


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One kind of GPU in the node that it usually comes in."""

    name: str
    memory_bytes: int
    """What torch can allocate, with the CUDA context still to come out of it."""
    half_flops: float
    """Dense matrix peak in bf16 or fp16, FLOP/s; 0: has no such units."""
    single_flops: float
    """Peak in fp32 without TF32, FLOP/s: what torch uses unless told otherwise."""
    memory_bandwidth: float
    """Bytes/s."""
    node_bandwidth: float
    """To the other GPUs of its node, bytes/s in one direction."""
    network_bandwidth: float
    """To other nodes, bytes/s in one direction, this GPU's share of the node's adapters."""
    per_node: int = 8
    has_bf16: bool = True
    node_link: str = "NVLink"
    network_link: str = "InfiniBand"
    latency_s: float = 1.5e-5
    """Of a collective or message among GPUs, start to end, without its bytes."""
    launch_s: float = 5e-6
    """Time to start one kernel: small layers cannot be faster than their kernels' starts."""
    overlaps: bool = True
    """Communication runs beside computing; not on a CPU, where both take the same cores."""

    def peak(self, precision: str) -> float:
        """Matrix peak in FLOP/s for model.precision; ConfigError for bf16 where there is none."""
        if precision == "bf16" and not self.has_bf16:
            raise ConfigError(f"model.precision: {self.name} has no bf16 units; use model.precision=fp16")
        return self.single_flops if precision == "fp32" else self.half_flops


GPUS = {gpu.name: gpu for gpu in (
    Gpu("v100-32g", int(31.7 * GIB), 125e12, 15.7e12, 0.90e12, 150e9, 6.25e9, has_bf16=False),
    Gpu("a100-40g", int(39.4 * GIB), 312e12, 19.5e12, 1.555e12, 300e9, 25e9),
    Gpu("a100-80g", int(79.1 * GIB), 312e12, 19.5e12, 2.039e12, 300e9, 25e9),
    Gpu("l40s-48g", int(44.4 * GIB), 362e12, 91.6e12, 0.864e12, 32e9, 12.5e9, node_link="PCIe"),
    Gpu("h100-80g", int(79.1 * GIB), 989.4e12, 66.9e12, 3.35e12, 450e9, 50e9),
    Gpu("h200-141g", int(139.0 * GIB), 989.4e12, 66.9e12, 4.8e12, 450e9, 50e9),
)}

_ALIASES = {"v100": "v100-32g", "l40s": "l40s-48g", "h100": "h100-80g", "h200": "h200-141g"}
"""a100 alone is no name: which of the two it is decides what fits."""

_PEAKS_BY_DEVICE_NAME = (
    # (part of torch.cuda.get_device_name, bf16 peak or 0, fp32 peak), the first that matches; PCIe forms are slower.
    ("V100", 0.0, 15.7e12), ("A100", 312e12, 19.5e12), ("A40", 149.7e12, 37.4e12), ("A30", 165e12, 10.3e12),
    ("H100 PCIe", 756e12, 51.2e12), ("H100 NVL", 835.5e12, 60e12), ("H100", 989.4e12, 66.9e12),
    ("H200 NVL", 835.5e12, 60e12), ("H200", 989.4e12, 66.9e12), ("GH200", 989.4e12, 66.9e12), ("L40S", 362e12, 91.6e12),
)


def find(name: str) -> Gpu:
    """The GPU of that name, in any spelling of case; ConfigError names the known ones."""
    wanted = name.lower()
    wanted = _ALIASES.get(wanted, wanted)
    if wanted not in GPUS:
        hint = "; a100 comes with 40 and with 80 GB" if wanted == "a100" else ""
        raise ConfigError(f"--gpu: {name!r} is unknown; known: {', '.join(GPUS)}{hint}")
    return GPUS[wanted]


def peak_flops_of(name: str, precision: str = "bf16") -> float | None:
    """Dense matrix peak in FLOP/s of a device by the name that torch.cuda.get_device_name gives; None where unknown.

    >>> peak_flops_of("NVIDIA A100-SXM4-80GB"), peak_flops_of("NVIDIA H100 PCIe"), peak_flops_of("NVIDIA GeForce RTX 4090")
    (312000000000000.0, 756000000000000.0, None)
    >>> peak_flops_of("Tesla V100-SXM2-32GB"), peak_flops_of("Tesla V100-SXM2-32GB", "fp16")
    (None, 125000000000000.0)
    """
    for part, half, single in _PEAKS_BY_DEVICE_NAME:
        if re.search(rf"\b{part}\b", name):
            if precision == "fp32":
                return single
            return half or (125e12 if precision == "fp16" and part == "V100" else None)
    return None

"""Rotary positions: reads every way in which Hugging Face configs spell them, and gives their frequencies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from megatron_ft.families.architecture import Architecture
from megatron_ft.families.hf_config import ConfigReader

if TYPE_CHECKING:
    import numpy

DEFAULT_THETA = 10_000.0
_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Rope type -> the numbers it needs besides theta, as Hugging Face names them."""


def read_rope(reader: ConfigReader) -> dict[str, Any]:
    """`Architecture.rope` from a config: transformers 5's `rope_parameters`, or older `rope_theta` and `rope_scaling`.

    A config may hold both spellings (files edited by hand do); they must then agree. ConfigError for a type whose
    frequencies are not implemented and for a number that is missing or unknown.
    """
    theta = reader.take("rope_theta")
    old = reader.take("rope_scaling")
    new = reader.take("rope_parameters")
    found = [_normalised(reader, key, value, theta) for key, value in
             (("rope_scaling", old), ("rope_parameters", new)) if value is not None]
    if not found:
        return _normalised(reader, "rope_theta", {}, theta)
    if len(found) == 2 and found[0] != found[1]:
        raise reader.refusal("rope_scaling", old, f"the same as rope_parameters, which is {new!r}")
    return found[0]


def _normalised(reader: ConfigReader, key: str, value: Any, outer_theta: float | None) -> dict[str, Any]:
    """One spelling as {"type", "theta", ...the type's numbers}."""
    if not isinstance(value, dict):
        raise reader.refusal(key, value, "an object")
    left = dict(value)
    kind, older_kind = left.pop("rope_type", None), left.pop("type", None)
    if kind is not None and older_kind is not None and kind != older_kind:
        raise reader.refusal(f"{key}.type", older_kind, f"{kind!r} as {key}.rope_type says")
    kind = kind or older_kind or "default"
    if kind not in _NUMBERS:
        raise reader.refusal(f"{key}.rope_type", kind, " or ".join(map(repr, _NUMBERS)))
    theta = left.pop("rope_theta", None)
    theta = outer_theta if theta is None else theta
    if outer_theta is not None and theta != outer_theta:
        raise reader.refusal("rope_theta", outer_theta, f"{theta!r} as {key} says")
    rope = {"type": kind, "theta": _positive(reader, f"{key}.rope_theta", DEFAULT_THETA if theta is None else theta)}
    for name in _NUMBERS[kind]:
        rope[name] = _positive(reader, f"{key}.{name}", left.pop(name, None))
    if left:
        unknown = sorted(left)[0]
        raise reader.refusal(f"{key}.{unknown}", left[unknown], f"no such key for rope type {kind!r}")
    return rope


def _positive(reader: ConfigReader, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise reader.refusal(key, value, "a number above 0")
    return float(value)


def rope_hf_config(rope: dict[str, Any]) -> dict[str, Any]:
    """The keys `rope_theta` and `rope_scaling`, the spelling that transformers 4 and 5 both read."""
    numbers = {name: rope[name] for name in _NUMBERS[rope["type"]]}
    if "original_max_position_embeddings" in numbers:
        numbers["original_max_position_embeddings"] = int(numbers["original_max_position_embeddings"])
    if rope["type"] == "default":
        return {"rope_theta": rope["theta"], "rope_scaling": None}
    # "type" beside "rope_type" is for transformers before 4.43
    spelled = {"linear": {"type": "linear", "rope_type": "linear"}}.get(rope["type"], {"rope_type": rope["type"]})
    return {"rope_theta": rope["theta"], "rope_scaling": {**spelled, **numbers}}


def rope_inverse_frequencies(architecture: Architecture) -> numpy.ndarray:
    """Radians per position of each pair of a head's dimensions, scaling included.

    Computed in float32 with torch's power function, as transformers and megatron-core do: numpy's differs in the last
    bit, which is worth 1e-3 radians at position 10,000. Formulas: RoFormer (Su et al. 2021), section 3.2.2; linear
    position interpolation (Chen et al. 2023); Llama 3.1's wavelength bands (`apply_scaling` in Meta's release).

    Returns:
        float32 [head_width / 2], descending.
    """
    import torch

    rope, width = architecture.rope, architecture.head_width
    exponents = torch.arange(0, width, 2, dtype=torch.int64).to(torch.float32) / width
    frequencies = 1.0 / (rope["theta"] ** exponents)
    if rope["type"] == "linear":
        frequencies = frequencies / rope["factor"]
    elif rope["type"] == "llama3":
        frequencies = _llama3_bands(frequencies, rope)
    return frequencies.numpy()


def _llama3_bands(frequencies: Any, rope: dict[str, Any]) -> Any:
    """Short wavelengths stay, long ones are stretched by `factor`, those between are blended by 1/wavelength."""
    import torch

    trained = rope["original_max_position_embeddings"]
    wavelengths = 2 * math.pi / frequencies
    stretched = frequencies / rope["factor"]
    short = wavelengths < trained / rope["high_freq_factor"]
    long = wavelengths > trained / rope["low_freq_factor"]
    share = (trained / wavelengths - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
    # transformers' order of operations: (1 - share) * f / factor differs from (1 - share) * (f / factor) by a bit
    blended = (1 - share) * frequencies / rope["factor"] + share * frequencies
    return torch.where(short, frequencies, torch.where(long, stretched, blended))

"""The number formats that weights may have, by their three names: torch's, safetensors', ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from megatron_ft.errors import CheckpointError, ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEEP = "keep"
"""For --dtype: what the source has."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
SAFETENSORS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
               "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
               "BOOL": torch.bool}
SAFETENSORS_NAMES = {dtype: name for name, dtype in SAFETENSORS.items()}


def target_dtype(requested: str, found: Mapping[str, torch.dtype], *, where: str) -> torch.dtype:
    """The dtype to write: the requested one, or with "keep" the one that all tensors have.

    Args:
        found: tensor name -> its dtype, of the tensors to be converted.
    CheckpointError when "keep" meets several dtypes or one that no weight may have (quantized models).
    """
    if requested != KEEP:
        if requested not in DTYPES:
            raise ConfigError(f"--dtype: {requested!r} is unknown; use one of {', '.join([KEEP, *DTYPES])}")
        return DTYPES[requested]
    examples = {dtype: name for name, dtype in found.items()}
    for dtype, name in examples.items():
        if dtype not in NAMES:
            raise CheckpointError(f"{where}: {name} is {str(dtype).removeprefix('torch.')}, expected one of "
                                  f"{', '.join(DTYPES)}; take the unquantized model or pass --dtype")
    if len(examples) > 1:
        listed = ", ".join(f"{name} is {NAMES[dtype]}" for dtype, name in examples.items())
        raise CheckpointError(f"{where}: tensors differ in dtype ({listed}); pass --dtype to say what to write")
    return next(iter(examples))

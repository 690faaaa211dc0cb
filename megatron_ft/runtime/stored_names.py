"""The keys that a model's parameters have in a `torch_dist` checkpoint. Torch-free.

The layers of a model are one tensor per key, stacked along a new first axis: layer 3's `decoder.layers.3.mlp.X` is
`decoder.layers.mlp.X`[3]. The norms have the keys that transformer-engine's fused layers give them, so that the local
and the transformer-engine layer spec read each other's checkpoints.
"""

from __future__ import annotations

import re

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_SHARED_KEYS = {"input_layernorm.": "self_attention.linear_qkv.layer_norm_",
                "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"}
"""megatron-core: gpt_layer_specs.get_gpt_layer_local_spec, sharded_state_dict_keys_map."""


def stored_key(name: str) -> tuple[str, int | None]:
    """The key of a parameter in a torch_dist folder, and its place on the key's layer axis.

    >>> stored_key("decoder.layers.3.input_layernorm.weight")
    ('decoder.layers.self_attention.linear_qkv.layer_norm_weight', 3)
    >>> stored_key("output_layer.weight")
    ('output_layer.weight', None)
    """
    match = _LAYER.fullmatch(name)
    if not match:
        return name, None
    return f"decoder.layers.{_shared(match.group(2))}", int(match.group(1))


def _shared(rest: str) -> str:
    for local, fused in _SHARED_KEYS.items():
        if rest.startswith(local):
            return fused + rest.removeprefix(local)
    return rest

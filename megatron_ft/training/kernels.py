"""Which implementation of each layer a run uses: transformer-engine where it is there, else our local spec."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, random
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from megatron_ft.errors import ConfigError
from megatron_ft.runtime.device import Device
from megatron_ft.training.attention import PackedAttention, flash_available
from megatron_ft.training.mlp import SecondLinear
from megatron_ft.training.norm import LayerNorm, RMSNorm

if not random.HAVE_TE:
    # Recomputing norms, megatron-core 0.16.1 takes "no FP8" (False, its default here) for FP8 and calls transformer-engine.
    random.CheckpointWithoutOutput.__init__ = functools.partialmethod(random.CheckpointWithoutOutput.__init__, fp8=None)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """What was chosen for this machine."""

    transformer_engine: bool
    fused_weight_gradients: bool
    """apex's fused_weight_gradient_mlp_cuda adds weight gradients straight into the fp32 buffer."""
    device: Device
    lora: bool = False
    """Adapters go on the local layers' linears; transformer-engine's hold the norms too and leave no place for them."""

    def describe(self) -> str:
        """One line for the log."""
        if self.transformer_engine:
            layers, attention = "transformer-engine", "transformer-engine (packed)"
        elif self.device == "cuda" and flash_available():
            layers, attention = "local spec", "torch varlen flash (bf16 without attention dropout), else SDPA per document"
        else:
            layers, attention = "local spec", "SDPA per document"
        fused = ", weight gradients fused by apex" if self.fused_weight_gradients else ""
        lora = " with LoRA" if self.lora else ""
        return f"kernels: layers {layers}{lora}, attention {attention}{fused}, on {self.device}"


def choose(device: Device, setting: str = "auto", *, lora: bool = False) -> Kernels:
    """The best kernels that are installed, as far as `runtime.kernels` lets them; with LoRA and on the CPU the local ones.

    ConfigError where transformer-engine is insisted on and cannot be used.
    """
    if setting == "transformer_engine" and (device == "cpu" or not _imports("transformer_engine.pytorch")):
        reason = "runs on CUDA only" if device == "cpu" else "does not import in this Python"
        raise ConfigError(f"runtime.kernels: 'transformer_engine', which {reason}, and runtime.device is '{device}'; "
                          "install it (pip install 'megatron_ft[gpu]') or use runtime.kernels=auto")
    optional = device == "cuda" and not lora
    return Kernels(transformer_engine=optional and setting != "local" and _imports("transformer_engine.pytorch"),
                   fused_weight_gradients=optional and _imports("fused_weight_gradient_mlp_cuda"), device=device, lora=lora)


def _imports(module: str) -> bool:
    # find_spec alone says yes to a package whose compiled part does not load; the import itself is the test.
    if importlib.util.find_spec(module.split(".")[0]) is None:
        return False
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def block_spec(config: TransformerConfig, kernels: Kernels,
               virtual_stage: int | None = None) -> TransformerBlockSubmodules | ModuleSpec:
    """The layers of one chunk of this rank's pipeline stage, in the kernels chosen."""
    if kernels.transformer_engine:
        return get_gpt_layer_with_transformer_engine_spec()
    norm = LayerNorm if config.normalization == "LayerNorm" else RMSNorm
    layers = get_num_layers_to_build(config, vp_stage=virtual_stage)
    return TransformerBlockSubmodules(layer_specs=[_local_layer(norm)] * layers, layer_norm=norm)


def _local_layer(norm: type) -> ModuleSpec:
    attention = ModuleSpec(
        module=SelfAttention, params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(linear_qkv=ColumnParallelLinear, core_attention=PackedAttention,
                                           linear_proj=RowParallelLinear, q_layernorm=IdentityOp, k_layernorm=IdentityOp))
    mlp = ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=SecondLinear))
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm, self_attention=attention, self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm, mlp=mlp, mlp_bda=get_bias_dropout_add,
            # transformer-engine fuses each norm into the linear after it: one name on disk for both specs.
            sharded_state_dict_keys_map={"input_layernorm.": "self_attention.linear_qkv.layer_norm_",
                                         "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"}))

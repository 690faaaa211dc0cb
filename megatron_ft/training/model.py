"""Builds megatron-core's GPTModel for an Architecture: this rank's part of it.

A rank holds one *stage* of the pipeline in one or more *chunks*: one per virtual stage (parallel.virtual_stages).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_ft.config import Memory, Model, Parallel
from megatron_ft.families.architecture import Architecture
from megatron_ft.families.rope import rope_inverse_frequencies
from megatron_ft.runtime.device import Device
from megatron_ft.training.kernels import Kernels, block_spec, choose
from megatron_ft.training.plan import padded_vocabulary, stage_layers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ACTIVATIONS = {"gelu": torch.nn.functional.gelu,
               "gelu_tanh": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
               "silu": torch.nn.functional.silu}


class LanguageModel(GPTModel):
    """GPTModel whose padding of the vocabulary never gets probability: the loss is that of the unpadded model."""

    def __init__(self, *, vocabulary: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.vocabulary = vocabulary

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """labels [1, T], logits [T, 1, V of this tp rank] -> loss per token [1, T]."""
        width = logits.shape[-1]
        real = min(max(self.vocabulary - parallel_state.get_tensor_model_parallel_rank() * width, 0), width)
        if real < width:
            logits[..., real:] = float("-inf")
        return super().compute_language_model_loss(labels, logits)


def _leave(weight: Tensor) -> Tensor:
    return weight


def transformer_config(architecture: Architecture, model: Model, parallel: Parallel, memory: Memory,
                       kernels: Kernels) -> TransformerConfig:
    """The Architecture and this run's layout, precision and recomputation, in megatron-core's words."""
    dtype = DTYPES[model.precision]
    cuda = kernels.device == "cuda"
    interleaved = parallel.virtual_stages > 1

    def or_base(value: float | None, base: float) -> float:
        return base if value is None else value

    return TransformerConfig(
        num_layers=architecture.layers, hidden_size=architecture.hidden, num_attention_heads=architecture.heads,
        num_query_groups=architecture.groups, kv_channels=architecture.head_width, ffn_hidden_size=architecture.ffn,
        normalization={"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}[architecture.norm],
        layernorm_epsilon=architecture.norm_epsilon, activation_func=ACTIVATIONS[architecture.activation],
        gated_linear_unit=architecture.gated, add_bias_linear=architecture.linear_bias,
        add_qkv_bias=architecture.qkv_bias or architecture.linear_bias,
        hidden_dropout=or_base(model.hidden_dropout, architecture.hidden_dropout),
        attention_dropout=or_base(model.attention_dropout, architecture.attention_dropout),
        # megatron-core counts the tokens before one, Hugging Face and the Architecture that one too.
        window_size=None if architecture.window is None else (architecture.window - 1, 0),
        tensor_model_parallel_size=parallel.tp, pipeline_model_parallel_size=parallel.pp,
        virtual_pipeline_model_parallel_size=parallel.virtual_stages if interleaved else None,
        # With two stages the next and the previous one are the same rank: in one batch their messages would be mixed up.
        overlap_p2p_comm=interleaved, batch_p2p_comm=not interleaved,
        pipeline_model_parallel_layout=_pipeline_layout(architecture, parallel), deallocate_pipeline_outputs=parallel.pp > 1,
        sequence_parallel=parallel.sequence_parallel, pipeline_dtype=dtype, params_dtype=dtype,
        bf16=model.precision == "bf16", fp16=model.precision == "fp16",
        calculate_per_token_loss=True, variable_seq_lengths=False, **_recomputation(memory),
        # Weights always come from a checkpoint, so none are drawn. perform_initialization=False is no way to say so: it
        # also leaves out the tensor_model_parallel mark, and then only tp rank 0 counts in the gradient norm.
        init_method=_leave, output_layer_init_method=_leave, embedding_init_method=_leave, use_cpu_initialization=not cuda,
        # The fused forms are jit-compiled or CUDA kernels; bias_activation_fusion would turn erf GELU into tanh GELU.
        bias_activation_fusion=False, bias_dropout_fusion=cuda, masked_softmax_fusion=False, persist_layer_norm=False,
        apply_rope_fusion=kernels.transformer_engine and architecture.position_embedding == "rope",
        gradient_accumulation_fusion=kernels.fused_weight_gradients,
        attention_softmax_in_fp32=True)


def _pipeline_layout(architecture: Architecture, parallel: Parallel) -> list[list[str]] | None:
    if parallel.pp == 1:
        return None
    pieces = [["decoder"] * layers for layers in stage_layers(architecture.layers, parallel)]
    return [["embedding", *pieces[0]], *pieces[1:-1], [*pieces[-1], "loss"]]


def _recomputation(memory: Memory) -> dict[str, Any]:
    if memory.recompute == "full":
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": memory.layers}
    if memory.recompute == "selective":
        return {"recompute_granularity": "selective", "recompute_modules": list(memory.modules)}
    return {}


def build(architecture: Architecture, *, parallel: Parallel, model: Model, device: Device, memory: Memory = Memory(),  # noqa: B008
          kernels: Kernels | None = None) -> list[torch.nn.Module]:
    """This rank's chunks of the model on its device, weights not set (load them: `training.checkpoint.load_model`).

    Each is a LanguageModel, inside a Float16Module for bf16 and fp16.
    """
    kernels = kernels or choose(device)
    config = transformer_config(architecture, model, parallel, memory, kernels)
    chunks = []
    for virtual_stage in range(parallel.virtual_stages):
        chunk = _build_chunk(architecture, model, parallel, config, kernels, virtual_stage)
        if device == "cuda":
            chunk.cuda(torch.cuda.current_device())
        chunks.append(chunk if model.precision == "fp32" else Float16Module(config, chunk))
    return chunks


def _build_chunk(architecture: Architecture, model: Model, parallel: Parallel, config: TransformerConfig, kernels: Kernels,
                 virtual_stage: int) -> LanguageModel:
    vp_stage = virtual_stage if parallel.virtual_stages > 1 else None
    chunk = LanguageModel(
        vocabulary=architecture.vocabulary, config=config, transformer_layer_spec=block_spec(config, kernels, vp_stage),
        vocab_size=padded_vocabulary(architecture.vocabulary, multiple=model.vocabulary_multiple, tp=parallel.tp),
        max_sequence_length=architecture.positions, vp_stage=vp_stage,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        share_embeddings_and_output_weights=architecture.tied_head,
        position_embedding_type={"learned": "learned_absolute", "rope": "rope"}[architecture.position_embedding],
        rotary_base=architecture.rope.get("theta", 10000))
    if architecture.position_embedding == "rope":
        # megatron-core knows two of Hugging Face's scalings, with fixed constants; the frequencies say them all.
        frequencies = torch.as_tensor(rope_inverse_frequencies(architecture), dtype=torch.float32)
        chunk.rotary_pos_emb.inv_freq = frequencies.to(torch.cuda.current_device())
    return chunk


def unwrap(module: torch.nn.Module) -> LanguageModel:
    """The LanguageModel inside megatron-core's wrappers (precision, data parallelism)."""
    while not isinstance(module, LanguageModel):
        module = module.module
    return module


def packed(cu_seqlens: Tensor, longest: int) -> PackedSeqParams:
    """megatron-core's description of a packed row; `longest` is the true maximum of the document lengths.

    Were it the row's length, megatron-core would let rotary positions run on over document borders, which costs accuracy
    in long rows.
    """
    return PackedSeqParams(qkv_format="thd", cu_seqlens_q=cu_seqlens, cu_seqlens_kv=cu_seqlens,
                           max_seqlen_q=longest, max_seqlen_kv=longest)


def full_logits(logits: Tensor, vocabulary: int) -> Tensor:
    """[1, T, V of this tp rank] -> [1, T, vocabulary] on every tp rank, padding cut off."""
    return gather_from_tensor_model_parallel_region(logits)[..., :vocabulary]

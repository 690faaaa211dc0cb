"""Instruction-tuning of code models on megatron-core: data, training, conversion, evaluation."""

__version__ = "0.1.0"

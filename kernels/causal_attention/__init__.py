"""Causal attention of packed sequences, differentiable: what training and plain recomputation use."""

from kernels.causal_attention.op import causal_attention

__all__ = ["causal_attention"]

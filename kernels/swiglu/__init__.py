"""The gated activation of Llama's feed-forward block."""

from kernels.swiglu.cpu import swiglu

__all__ = ["swiglu"]

"""The gated activation of Llama's feed-forward block."""

from kernels.swiglu.op import swiglu

__all__ = ["swiglu"]

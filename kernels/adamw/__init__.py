"""A step of AdamW over many tensors of any shapes at once."""

from kernels.adamw.op import adamw

__all__ = ["adamw"]

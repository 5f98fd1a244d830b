"""Rotary position embedding in the half-split layout of Hugging Face's Llama."""

from kernels.rope.cpu import apply_rope, rope_tables

__all__ = ["apply_rope", "rope_tables"]

"""Rotary position embedding in the half-split layout of Hugging Face's Llama, alone or on the way into paged memory."""

from kernels.rope.op import apply_rope, rope_paged_write
from kernels.rope.tables import rope_tables

__all__ = ["apply_rope", "rope_paged_write", "rope_tables"]

"""Rotary position embedding in the half-split layout of Hugging Face's Llama, alone or on the way into paged memory."""

from kernels.rope.op import apply_rope, rope_paged_write
from kernels.rope.tables import Turns, rope_tables

__all__ = ["Turns", "apply_rope", "rope_paged_write", "rope_tables"]

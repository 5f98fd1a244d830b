"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values; the upper layers may have sliding windows."""

from __future__ import annotations

from engine.models.llama import Llama


class Qwen2(Llama):
    """The biases and the windows stand in the configuration; the forward is Llama's."""

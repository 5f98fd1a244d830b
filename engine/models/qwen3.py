"""Qwen3: Llama whose queries and keys are normed, head by head, before they are turned."""

from __future__ import annotations

from torch import Tensor

from engine.catalog import ModelConfig
from engine.models.blocks import attend
from engine.models.causal_lm import Pass
from engine.models.layer import Layer, Slots, head_norm_slots
from engine.models.llama import Llama


class Qwen3(Llama):
    """The dense model."""

    @classmethod
    def slots(cls, config: ModelConfig, index: int) -> Slots:
        """The buffers of Llama's layer, and norms of each query and key head."""
        return {**super().slots(config, index), **head_norm_slots(config)}

    def mix(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """Attention with normed query and key heads."""
        return attend(self, layer, inputs, batch, self.norm_heads)

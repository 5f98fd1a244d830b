"""Qwen3: Llama whose queries and keys are normed, head by head, before they are turned."""

from __future__ import annotations

from torch import Tensor

from engine.catalog import ModelConfig
from engine.models.blocks import attend, feed_forward
from engine.models.causal_lm import Pass
from engine.models.layer import Layer, Slots, head_norm_slots
from engine.models.llama import Llama


class Qwen3(Llama):
    """The dense model; what is fed forward can be replaced."""

    @classmethod
    def slots(cls, config: ModelConfig, index: int) -> Slots:
        """As ``CausalLM.slots``."""
        return {**super().slots(config, index), **head_norm_slots(config)}

    def decode(self, layer: Layer, hidden: Tensor, batch: Pass) -> Tensor:
        """As ``CausalLM.decode``."""
        attended = attend(self, layer, self.norm(hidden, layer.input_norm), batch, self.norm_heads)
        hidden = batch.wanted(layer, hidden) + attended
        return hidden + self.feed(layer, self.norm(hidden, layer.post_norm), batch)

    def feed(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """inputs: [T, hidden], normed -> [T, hidden]."""
        return feed_forward(layer, inputs, batch)

"""Llama, and Mistral, which is Llama with sliding windows."""

from __future__ import annotations

from torch import Tensor

from engine.catalog import ModelConfig
from engine.models.blocks import attend, feed_forward
from engine.models.causal_lm import CausalLM, Pass
from engine.models.layer import Layer, Slots, attention_slots, feed_forward_slots, norm


class Llama(CausalLM):
    """Each layer adds its attention and then its feed-forward part, each of a normed input."""

    @classmethod
    def slots(cls, config: ModelConfig, index: int) -> Slots:
        """As ``CausalLM.slots``."""
        return {
            **norm("input_norm", config.hidden_size, "input_layernorm"),
            **attention_slots(config),
            **norm("post_norm", config.hidden_size, "post_attention_layernorm"),
            **feed_forward_slots(config),
        }

    def decode(self, layer: Layer, hidden: Tensor, batch: Pass) -> Tensor:
        """As ``CausalLM.decode``."""
        attended = attend(self, layer, self.norm(hidden, layer.input_norm), batch)
        hidden = batch.wanted(layer, hidden) + attended
        return hidden + feed_forward(layer, self.norm(hidden, layer.post_norm), batch)

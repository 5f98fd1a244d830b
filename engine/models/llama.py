"""Llama, and Mistral, which is Llama with sliding windows."""

from __future__ import annotations

from torch import Tensor

from engine.catalog import ModelConfig
from engine.models.blocks import attend, feed_forward
from engine.models.causal_lm import CausalLM, Pass
from engine.models.layer import Layer, Slots, attention_slots, feed_forward_slots, norm


class Llama(CausalLM):
    """Attention, and a dense feed-forward part."""

    @classmethod
    def slots(cls, config: ModelConfig, index: int) -> Slots:
        """The buffers of a layer with two norms, attention and a feed-forward part."""
        return {
            **norm("input_norm", config.hidden_size, "input_layernorm"),
            **attention_slots(config),
            **norm("post_norm", config.hidden_size, "post_attention_layernorm"),
            **feed_forward_slots(config),
        }

    def mix(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """Plain attention."""
        return attend(self, layer, inputs, batch)

    def feed(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """One gated feed-forward part."""
        return feed_forward(layer, inputs, batch)

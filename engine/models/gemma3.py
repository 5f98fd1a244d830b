"""Gemma 3's text model: norms on both sides of each block, and windows with rotary positions of their own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from engine.catalog import ModelConfig
from engine.models.blocks import attend, feed_forward
from engine.models.causal_lm import CausalLM, Pass
from engine.models.layer import (
    Layer,
    Slot,
    Slots,
    attention_slots,
    feed_forward_slots,
    head_norm_slots,
    norm,
)
from kernels.pointwise import gelu_tanh


class Gemma3(CausalLM):
    """A norm's weight is stored less one; it is held, and multiplied with, in float32."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        super().__init__(config, dtype, device)
        self._root = torch.tensor(config.hidden_size**0.5, dtype=dtype).item()

    @classmethod
    def slots(cls, config: ModelConfig, index: int) -> Slots:
        """The buffers of a layer with four norms, whose weights are stored less 1."""
        hidden = config.hidden_size
        norms = {
            **norm("input_norm", hidden, "input_layernorm"),
            **norm("attended_norm", hidden, "post_attention_layernorm"),
            **norm("post_norm", hidden, "pre_feedforward_layernorm"),
            **norm("fed_norm", hidden, "post_feedforward_layernorm"),
            **head_norm_slots(config),
        }
        one_more = {name: _one_more(slot) for name, slot in norms.items()}
        return {**one_more, **attention_slots(config), **feed_forward_slots(config)}

    @classmethod
    def final_slot(cls, config: ModelConfig) -> Slot:
        """The norm behind the last layer, its weights stored less 1."""
        return _one_more(super().final_slot(config))

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids: [T] -> [T, hidden_size], scaled by the root of the width, itself rounded to the model's dtype."""
        return super().embed(token_ids) * self._root

    def mix(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """Attention with normed heads, its result normed too."""
        return self.norm(attend(self, layer, inputs, batch, self.norm_heads), layer.attended_norm)

    def feed(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """A feed-forward part gated by GELU, its result normed."""
        return self.norm(feed_forward(layer, inputs, batch, _gelu_gated), layer.fed_norm)


def _gelu_gated(gate: Tensor, up: Tensor) -> Tensor:
    return gelu_tanh(gate) * up


def _one_more(slot: Slot) -> Slot:
    return replace(slot, turned=lambda weight: weight.float() + 1, dtype=torch.float32)

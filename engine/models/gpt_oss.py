"""gpt-oss: every second layer has a window, every head an attention sink, every layer a mixture of experts; biases."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.catalog import ModelConfig
from engine.models.blocks import attend
from engine.models.causal_lm import CausalLM, Pass
from engine.models.layer import Layer, Slot, Slots, attention_slots, norm, projection
from engine.models.mixture import mixture
from kernels.grouped_moe import GatedUnit
from kernels.softmax import softmax

LIMITED_GATE = GatedUnit(sharpness=1.702, limit=7.0, offset=1.0)


class GptOss(CausalLM):
    """A token's experts have the largest scores, weighted by a softmax over theirs alone."""

    @classmethod
    def slots(cls, config: ModelConfig, index: int) -> Slots:
        """Attention with sinks; experts, of which a file has inputs before their outputs, gates and ups alternating."""
        experts, hidden = config.experts, config.hidden_size
        assert experts is not None
        count, ffn = experts.count, experts.ffn_size
        return {
            **norm("input_norm", hidden, "input_layernorm"),
            **attention_slots(config),
            "sinks": Slot((config.heads,), ("self_attn.sinks",)),
            **norm("post_norm", hidden, "post_attention_layernorm"),
            **projection("router", count, hidden, ("mlp.router",), config.mlp_bias),
            "experts_gate_up": Slot((count, 2 * ffn, hidden), ("mlp.experts.gate_up_proj",), _outputs_first_apart),
            "experts_gate_up_bias": Slot((count, 2 * ffn), ("mlp.experts.gate_up_proj_bias",), _apart),
            "experts_down": Slot((count, hidden, ffn), ("mlp.experts.down_proj",), _outputs_first),
            "experts_down_bias": Slot((count, hidden), ("mlp.experts.down_proj_bias",)),
        }

    def mix(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """Plain attention; its sinks are in ``spec``."""
        return attend(self, layer, inputs, batch)

    def feed(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """A mixture of the experts with the largest scores."""
        experts = self.config.experts
        assert experts is not None
        scores, chosen = layer.project("router", inputs).topk(experts.chosen)
        weights = softmax(scores.float()).to(inputs.dtype)
        return mixture(layer, inputs, chosen, weights, LIMITED_GATE)


def _apart(rows: Tensor) -> Tensor:
    """[experts, 2 ffn, …], gate and up alternating -> the gates and then the ups."""
    return torch.cat((rows[:, 0::2], rows[:, 1::2]), 1)


def _outputs_first(weight: Tensor) -> Tensor:
    """[experts, in, out] -> [experts, out, in]."""
    return weight.transpose(1, 2)


def _outputs_first_apart(weight: Tensor) -> Tensor:
    return _apart(_outputs_first(weight))

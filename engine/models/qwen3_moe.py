"""Qwen3-MoE: Qwen3 whose feed-forward parts are mixtures of experts."""

from __future__ import annotations

from torch import Tensor

from engine.catalog import ModelConfig
from engine.models.causal_lm import Pass
from engine.models.layer import Layer, Slot, Slots, attention_slots, head_norm_slots, norm
from engine.models.mixture import mixture
from engine.models.qwen3 import Qwen3
from kernels.grouped_moe import route


class Qwen3Moe(Qwen3):
    """A token's experts are the likeliest of all by a softmax over their scores, weighted by it."""

    @classmethod
    def slots(cls, config: ModelConfig, index: int) -> Slots:
        """The buffers of Qwen3's attention beside a router and experts."""
        hidden = config.hidden_size
        return {
            **norm("input_norm", hidden, "input_layernorm"),
            **attention_slots(config),
            **head_norm_slots(config),
            **norm("post_norm", hidden, "post_attention_layernorm"),
            **expert_slots(config),
        }

    def feed(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """A mixture of the likeliest experts."""
        return likeliest(layer, inputs, self.config)


def expert_slots(config: ModelConfig) -> dict[str, Slot]:
    """Router and experts of a layer."""
    experts, hidden = config.experts, config.hidden_size
    assert experts is not None
    each = [f"mlp.experts.{number}." for number in range(experts.count)]
    halves = tuple(f"{one}{half}_proj.weight" for one in each for half in ("gate", "up"))
    return {
        "router": Slot((experts.count, hidden), ("mlp.gate.weight",)),
        "experts_gate_up": Slot((experts.count, 2 * experts.ffn_size, hidden), halves),
        "experts_down": Slot(
            (experts.count, hidden, experts.ffn_size), tuple(f"{one}down_proj.weight" for one in each)
        ),
    }


def likeliest(layer: Layer, inputs: Tensor, config: ModelConfig) -> Tensor:
    """The mixture of the experts that a softmax over all finds likeliest: inputs [T, hidden], normed -> [T, hidden]."""
    experts = config.experts
    assert experts is not None
    weights, chosen = route(layer.project("router", inputs).float(), experts.chosen, experts.normalised)
    return mixture(layer, inputs, chosen, weights.to(inputs.dtype))

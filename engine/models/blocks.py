"""The blocks that families share: attention with rotary positions, and the gated feed-forward part."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from engine.models.causal_lm import CausalLM, Pass
from engine.models.layer import Layer
from kernels.swiglu import swiglu

Heads = Callable[[Layer, Tensor, Tensor], tuple[Tensor, Tensor]]
Activation = Callable[[Tensor, Tensor], Tensor]


def attend(model: CausalLM, layer: Layer, inputs: Tensor, batch: Pass, prepare: Heads | None = None) -> Tensor:
    """The attention block.

    Args:
        model: which it belongs to.
        layer: with the slots ``qkv`` and ``output``.
        inputs: [T, hidden], normed.
        batch: of this pass.
        prepare: what is done to queries [T, heads, head_dim] and keys [T, kv_heads, head_dim] first.

    Returns:
        [T or wanted, hidden], to be added to the hidden states.
    """
    config = model.config
    parts = layer.project("qkv", inputs).split((config.query_size, config.kv_size, config.kv_size), 1)
    query, key, value = (
        batch.adapt(layer, target, inputs, part).reshape(len(inputs), -1, config.head_dim)
        for target, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True)
    )
    if prepare is not None:
        query, key = prepare(layer, query, key)
    mixed = batch.attention(layer.index, query, key, value, turns=batch.turns[layer.kind], spec=model.spec(layer))
    mixed = batch.wanted(layer, mixed.reshape(len(inputs), config.query_size))
    return batch.adapt(layer, "o_proj", mixed, layer.project("output", mixed))


def feed_forward(layer: Layer, inputs: Tensor, batch: Pass, activation: Activation = swiglu) -> Tensor:
    """The dense gated block: inputs [T, hidden], normed -> [T, hidden], to be added to the hidden states."""
    gate, up = layer.project("gate_up", inputs).chunk(2, 1)
    gate = batch.adapt(layer, "gate_proj", inputs, gate)
    up = batch.adapt(layer, "up_proj", inputs, up)
    active = activation(gate, up)
    return batch.adapt(layer, "down_proj", active, layer.project("down", active))

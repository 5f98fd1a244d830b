"""Qwen3-Next and Qwen3.5: gated delta nets, with full attention behind an output gate in every few layers."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from engine.catalog import ModelConfig
from engine.models.attention import Recurrent, delta_shape
from engine.models.blocks import feed_forward
from engine.models.causal_lm import CausalLM, Pass
from engine.models.layer import Layer, Slot, Slots, feed_forward_slots, projection
from engine.models.qwen3_moe import expert_slots, likeliest
from fw_sdk.types import FwError
from kernels.gated_delta_net import DeltaWeights
from kernels.pointwise import sigmoid, silu
from kernels.rms_norm import rms_norm


class Qwen3Next(CausalLM):
    """Mixers of two kinds, and a feed-forward part that may be a mixture.

    Norms are stored minus one and held in float32: weights near 1 would be rounded in 16 bits.
    """

    @classmethod
    def slots(cls, config: ModelConfig, index: int) -> Slots:
        """The buffers of a layer that attends or recurs, by the layer's kind."""
        mixer = _recurrent_slots(config) if config.kind(index) == "recurrent" else _attention_slots(config)
        return {
            **centred_norm("input_norm", config.hidden_size, "input_layernorm"),
            **mixer,
            **centred_norm("post_norm", config.hidden_size, "post_attention_layernorm"),
            **(_expert_slots(config) if config.experts else feed_forward_slots(config)),
        }

    @classmethod
    def final_slot(cls, config: ModelConfig) -> Slot:
        """The norm behind the last layer, its weights stored less 1."""
        return centred_norm("final_norm", config.hidden_size, "model.norm")["final_norm"]

    def mix(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """Gated attention or the gated delta net, by the layer's kind."""
        mixer = self._recur if layer.kind == "recurrent" else self._attend
        return mixer(layer, inputs, batch)

    def _attend(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """Attention whose every head is gated: inputs [T, hidden], normed -> [T or wanted, hidden]."""
        config = self.config
        parts = layer.project("qkv", inputs).split((2 * config.query_size, config.kv_size, config.kv_size), 1)
        doubled, key, value = (
            batch.adapt(layer, target, inputs, part).reshape(len(inputs), -1, width)
            for target, part, width in zip(
                ("q_proj", "k_proj", "v_proj"),
                parts,
                (2 * config.head_dim, config.head_dim, config.head_dim),
                strict=True,
            )
        )
        query, gate = doubled.chunk(2, -1)
        query, key = self.norm(query, layer.query_norm), self.norm(key, layer.key_norm)
        index, turns = config.cache_index(layer.index), batch.turns["full"]
        read = batch.attention(index, query, key, value, turns=turns, spec=self.spec(layer))
        mixed = (read * sigmoid(gate)).reshape(len(inputs), config.query_size)
        mixed = batch.wanted(layer, mixed)
        return batch.adapt(layer, "o_proj", mixed, layer.project("output", mixed))

    def feed(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """A feed-forward part; of a mixture, with an expert that every token goes through as far as its gate says."""
        common = feed_forward(layer, inputs, batch)
        if not self.config.experts:
            return common
        return likeliest(layer, inputs, self.config) + common * sigmoid(layer.project("shared_gate", inputs))

    def _recur(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """The gated delta net: inputs [T, hidden], normed -> [T or wanted, hidden].

        Raises:
            FwError: ``failed_precondition`` where no states are carried, as in training.
        """
        config, sizes = self.config, self.config.recurrence
        assert sizes is not None
        if not isinstance(batch.attention, Recurrent):
            raise FwError("failed_precondition", "Layers with a recurrent state cannot be computed here.")
        mixed, gate = layer.project("recurrent", inputs).split((sizes.channels, sizes.value_size), 1)
        write, decay = layer.project("recurrent_gates", inputs).chunk(2, 1)
        weights = DeltaWeights(layer.filters, layer.rate, layer.rate_bias)
        read = batch.attention.recur(
            config.cache_index(layer.index), mixed, decay, write, weights=weights, shape=delta_shape(sizes)
        )
        normed = rms_norm(read.float(), layer.read_norm, config.norm_eps)
        gated = normed * silu(gate.float()).view(normed.shape)
        return layer.project("recurrent_output", batch.wanted(layer, gated.flatten(1).to(inputs.dtype)))


def centred_norm(name: str, width: int, source: str) -> dict[str, Slot]:
    """Slot of a norm whose file holds what is to be added to 1."""
    return {name: Slot((width,), (f"{source}.weight",), lambda weight: weight.float() + 1, torch.float32)}


def _attention_slots(config: ModelConfig) -> dict[str, Slot]:
    hidden, query = config.hidden_size, config.query_size
    sources = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return {
        **projection("qkv", 2 * query + 2 * config.kv_size, hidden, sources, bias=False),
        **centred_norm("query_norm", config.head_dim, "self_attn.q_norm"),
        **centred_norm("key_norm", config.head_dim, "self_attn.k_norm"),
        **projection("output", hidden, query, ("self_attn.o_proj",), bias=False),
    }


def _expert_slots(config: ModelConfig) -> dict[str, Slot]:
    """A mixture, and its common expert in the place of a dense feed-forward part."""
    experts, hidden = config.experts, config.hidden_size
    assert experts is not None
    shared, width = "mlp.shared_expert.", experts.shared_ffn_size
    return {
        **expert_slots(config),
        **projection("gate_up", 2 * width, hidden, (f"{shared}gate_proj", f"{shared}up_proj"), bias=False),
        **projection("down", hidden, width, (f"{shared}down_proj",), bias=False),
        **projection("shared_gate", 1, hidden, ("mlp.shared_expert_gate",), bias=False),
    }


def _recurrent_slots(config: ModelConfig) -> dict[str, Slot]:
    """Queries, keys, values and gates of a gated delta net in one matrix, its writes and decays in another."""
    sizes, hidden = config.recurrence, config.hidden_size
    assert sizes is not None
    prefix = "linear_attn."
    wide, narrow = (sizes.channels + sizes.value_size, hidden), (2 * sizes.value_heads, hidden)
    if sizes.grouped:
        own = sizes.value_heads // sizes.key_heads
        rows = (sizes.key_dim, sizes.key_dim, own * sizes.value_dim, own * sizes.value_dim)
        both = {
            "recurrent": Slot(wide, (f"{prefix}in_proj_qkvz.weight",), partial(_ungrouped, sizes.key_heads, rows)),
            "recurrent_gates": Slot(
                narrow, (f"{prefix}in_proj_ba.weight",), partial(_ungrouped, sizes.key_heads, (own, own))
            ),
        }
    else:
        both = {
            "recurrent": Slot(wide, (f"{prefix}in_proj_qkv.weight", f"{prefix}in_proj_z.weight")),
            "recurrent_gates": Slot(narrow, (f"{prefix}in_proj_b.weight", f"{prefix}in_proj_a.weight")),
        }
    return {
        **both,
        "filters": Slot(
            (sizes.taps, sizes.channels),
            (f"{prefix}conv1d.weight",),
            lambda taps: taps.reshape(len(taps), -1).T,
            torch.float32,
        ),
        "rate": Slot(
            (sizes.value_heads,), (f"{prefix}A_log",), lambda logarithm: logarithm.float().exp(), torch.float32
        ),
        "rate_bias": Slot((sizes.value_heads,), (f"{prefix}dt_bias",), None, torch.float32),
        "read_norm": Slot((sizes.value_dim,), (f"{prefix}norm.weight",), None, torch.float32),
        **projection("recurrent_output", hidden, sizes.value_size, (f"{prefix}out_proj",), bias=False),
    }


def _ungrouped(groups: int, rows: tuple[int, ...], weight: Tensor) -> Tensor:
    """From one block of rows per key head, its parts one below the other, to one block per part."""
    if weight.shape[0] != groups * sum(rows):
        return weight  # which loading refuses
    parts = weight.view(groups, sum(rows), -1).split(rows, 1)
    return torch.cat([part.flatten(0, 1) for part in parts])

"""One decoder layer's frozen weights: a table of slots is the one source of their shapes and of the files' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from engine.catalog import LayerKind, ModelConfig
from kernels.linear import linear


@dataclass(frozen=True)
class Slot:
    """One buffer of a layer.

    Attributes:
        shape: of the buffer.
        sources: the tensors that are stacked in it, one below the other, by their Hugging Face names in the layer.
        turned: what is done to each of them first.
        dtype: of the buffer; None for the model's own.
    """

    shape: tuple[int, ...]
    sources: tuple[str, ...]
    turned: Callable[[Tensor], Tensor] | None = None
    dtype: torch.dtype | None = None


Slots = Mapping[str, Slot]


class Product(Protocol):
    """A matrix that is held in few bits and multiplied by calling it."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        ...

    def __call__(self, x: Tensor, *, float32_out: bool = False) -> Tensor:
        """x: [T, in] -> [T, out] in x's dtype, or in float32 if ``float32_out``."""
        ...

    def rows(self, numbers: Tensor) -> Tensor:
        """numbers: [N] i64 -> those rows of the matrix, [N, in] float32."""
        ...

    def to(self, device: torch.device) -> Product:
        """Itself, moved to a device."""
        ...


class Layer(nn.Module):
    """Buffers of one layer, uninitialised until the model is loaded. Which there are depends on the family.

    Projections that share an input lie in one matrix; those of a mixture's experts in one tensor, expert by expert.

    Attributes:
        index: its place in the model.
        kind: of its attention.
        input_norm: [hidden].
        qkv: [query + 2 kv, hidden].
        query_norm: [head_dim], of each query head.
        key_norm: [head_dim], of each key head.
        sinks: [heads].
        output: [hidden, query].
        attended_norm: [hidden], of what the attention adds.
        recurrent: [channels + values, hidden], queries, keys, values and gates of a gated delta net.
        recurrent_gates: [2 value_heads, hidden], its writes and decays.
        filters: [taps, channels], of its convolution.
        rate: [value_heads], how fast it forgets.
        rate_bias: [value_heads].
        read_norm: [value_dim], of what each head reads.
        recurrent_output: [hidden, values].
        post_norm: [hidden], in front of the feed-forward part.
        gate_up: [2 ffn, hidden].
        down: [hidden, ffn].
        router: [experts, hidden].
        experts_gate_up: [experts, 2 ffn, hidden].
        experts_down: [experts, hidden, ffn].
        shared_gate: [1, hidden], how much of the expert that all tokens use is added.
        fed_norm: [hidden], of what the feed-forward part adds.
        packed: projections that are held in few bits, by name and expert (None in a dense block); their buffers are
            empty.
    """

    input_norm: Tensor
    qkv: Tensor
    query_norm: Tensor
    key_norm: Tensor
    sinks: Tensor
    output: Tensor
    attended_norm: Tensor
    recurrent: Tensor
    recurrent_gates: Tensor
    filters: Tensor
    rate: Tensor
    rate_bias: Tensor
    read_norm: Tensor
    recurrent_output: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor
    router: Tensor
    experts_gate_up: Tensor
    experts_down: Tensor
    fed_norm: Tensor

    def __init__(self, index: int, kind: LayerKind, slots: Slots, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.index, self.kind = index, kind
        for name, slot in slots.items():
            self.register_buffer(name, torch.empty(slot.shape, dtype=slot.dtype or dtype, device=device))
        self.packed: dict[tuple[str, int | None], Product] = {}

    def project(self, name: str, inputs: Tensor, expert: int | None = None) -> Tensor:
        """The projection ``name``, or that of one expert: inputs [T, in] -> [T, out]. Every product runs here."""
        held = self.packed.get((name, expert))
        if held is not None:
            return held(inputs)
        weight, bias = getattr(self, name), getattr(self, f"{name}_bias", None)
        if expert is not None:
            weight, bias = weight[expert], None if bias is None else bias[expert]
        return linear(inputs, weight, bias)


def projection(name: str, rows: int, columns: int, sources: tuple[str, ...], bias: bool) -> dict[str, Slot]:
    """Slots of a projection [rows, columns] and of its bias; ``sources`` without ``.weight``."""
    slots = {name: Slot((rows, columns), tuple(f"{source}.weight" for source in sources))}
    if bias:
        slots[f"{name}_bias"] = Slot((rows,), tuple(f"{source}.bias" for source in sources))
    return slots


def norm(name: str, width: int, source: str) -> dict[str, Slot]:
    """Slot of a norm."""
    return {name: Slot((width,), (f"{source}.weight",))}


def attention_slots(config: ModelConfig) -> dict[str, Slot]:
    """Projections of an attention block."""
    sources = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    hidden, query = config.hidden_size, config.query_size
    return {
        **projection("qkv", query + 2 * config.kv_size, hidden, sources, config.attention_bias),
        **projection("output", hidden, query, ("self_attn.o_proj",), config.output_bias),
    }


def head_norm_slots(config: ModelConfig) -> dict[str, Slot]:
    """Norms of each query and key head."""
    return {
        **norm("query_norm", config.head_dim, "self_attn.q_norm"),
        **norm("key_norm", config.head_dim, "self_attn.k_norm"),
    }


def feed_forward_slots(config: ModelConfig) -> dict[str, Slot]:
    """Projections of a dense feed-forward block."""
    hidden, ffn = config.hidden_size, config.ffn_size
    return {
        **projection("gate_up", 2 * ffn, hidden, ("mlp.gate_proj", "mlp.up_proj"), config.mlp_bias),
        **projection("down", hidden, ffn, ("mlp.down_proj",), config.mlp_bias),
    }

"""What every family's model is: one flat-token forward for prefill, decoding, training and scoring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.catalog import LayerKind, ModelConfig
from engine.models.adapters import Adapters
from engine.models.attention import Attention
from engine.models.layer import Layer, Product, Slot, Slots, norm
from engine.models.rotary import rope_frequencies
from kernels.attention_spec import AttentionSpec
from kernels.linear import linear
from kernels.rms_norm import add_rms_norm, rms_norm
from kernels.rope import Turns, rope_tables


@dataclass(frozen=True)
class Pass:
    """What one forward pass carries through the layers.

    Attributes:
        attention: called once per layer with this batch's queries, keys and values.
        adapters: updates to add to the projections.
        turns: cosine and sine of the batch's positions, by kind of layer.
        rows: [N] i64, the tokens wanted behind the last layer's attention; None for all.
        last: index of the last layer.
    """

    attention: Attention
    adapters: Adapters | None
    turns: Mapping[LayerKind, Turns]
    rows: Tensor | None
    last: int

    def wanted(self, layer: Layer, tensor: Tensor) -> Tensor:
        """tensor: [T, …] -> those rows that are needed behind the layer's attention."""
        return tensor if self.rows is None or layer.index != self.last else tensor.index_select(0, self.rows)

    def adapt(self, layer: Layer, target: str, inputs: Tensor, outputs: Tensor) -> Tensor:
        """inputs: [T, in] of the projection ``target``, outputs: [T, out] of it -> [T, out] as the adapters want it."""
        return outputs if self.adapters is None else self.adapters.apply(layer.index, target, inputs, outputs)


class CausalLM(nn.Module, ABC):
    """A decoder whose weights are frozen buffers, uninitialised until ``load_model`` fills them.

    Each layer adds what its mixer makes of the normed hidden states, and then what its feed-forward part makes of the
    normed sum. A family says which buffers a layer has (``slots``) and what the two are (``mix`` and ``feed``).

    Attributes:
        config: its architecture.
        dtype: of weights and activations.
        device: where it is.
        embedding: [vocab, hidden].
        head: [vocab, hidden]; the embedding itself when tied.
        final_norm: [hidden].
        frequencies: [head_dim / 2] f32, radians per position; fewer where only a part of each head is turned.
        local_frequencies: [head_dim / 2] f32, those of the sliding layers; ``frequencies`` itself if they share them.
        packed: ``embedding`` and ``head`` if they are held in few bits; their buffers are empty then.
        format: how the weights are held: bfloat16, float32, int8, q4_k …
    """

    embedding: Tensor
    head: Tensor
    final_norm: Tensor
    frequencies: Tensor
    local_frequencies: Tensor

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self.packed: dict[str, Product] = {}
        self.format = str(dtype).removeprefix("torch.")
        empty = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device=self.device)
        self.register_buffer("embedding", empty)
        self.register_buffer("head", empty if config.tie_embeddings else torch.empty_like(empty))
        final = self.final_slot(config)
        self.register_buffer("final_norm", torch.empty(final.shape, dtype=final.dtype or dtype, device=self.device))
        turned = config.rotary_dim or config.head_dim
        frequencies = rope_frequencies(turned, config.rope_base, config.rope_scaling).to(self.device)
        local = None if config.window is None else config.window.rope_base
        own = frequencies if local is None else rope_frequencies(config.head_dim, local, None).to(self.device)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("local_frequencies", own)
        self.layers = nn.ModuleList(
            Layer(index, config.kind(index), self.slots(config, index), dtype, self.device)
            for index in range(config.layers)
        )

    @property
    def decoders(self) -> list[Layer]:
        """Its layers, the first first."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    @property
    def weight_bytes(self) -> int:
        """Memory of all weights."""
        held = [*self.packed.values(), *(one for layer in self.decoders for one in layer.packed.values())]
        buffers = {tensor.data_ptr(): tensor.nbytes for tensor in self.buffers()}
        return sum(buffers.values()) + sum({id(one): one.nbytes for one in held}.values())

    @classmethod
    @abstractmethod
    def slots(cls, config: ModelConfig, index: int) -> Slots:
        """The buffers of the layer ``index``."""

    @classmethod
    def final_slot(cls, config: ModelConfig) -> Slot:
        """The norm behind the last layer."""
        return norm("final_norm", config.hidden_size, "model.norm")["final_norm"]

    @abstractmethod
    def mix(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """What lets tokens see each other: inputs [T, hidden], normed -> [T or wanted, hidden], to be added to them."""

    @abstractmethod
    def feed(self, layer: Layer, inputs: Tensor, batch: Pass) -> Tensor:
        """The feed-forward part: inputs [T, hidden], normed -> [T, hidden], to be added to the hidden states."""

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: Attention,
        adapters: Adapters | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            token_ids: [T] i64, the tokens of all sequences of the batch, one after another.
            positions: [T] i64, each token's position in its sequence.
            attention: called once per layer with this batch's queries, keys and values.
            adapters: updates to add to the projections.
            rows: [N] i64, the tokens whose hidden states are wanted; without it, all. Behind the last attention the
                others are dropped, and adapters see only these.

        Returns:
            [T or N, hidden_size] in the model's dtype.
        """
        hidden = self.embed(token_ids)
        batch = Pass(attention, adapters, self._turns(positions), rows, len(self.layers) - 1)
        layers = self.decoders
        inputs = self.norm(hidden, layers[0].input_norm)
        # Each sum is normed for whoever reads it next, so that the two can be one pass over memory.
        for layer, norm_behind in zip(layers, [*(one.input_norm for one in layers[1:]), self.final_norm], strict=True):
            mixed = self.mix(layer, inputs, batch)
            inputs, hidden = self.add_norm(mixed, batch.wanted(layer, hidden), layer.post_norm)
            inputs, hidden = self.add_norm(self.feed(layer, inputs, batch), hidden, norm_behind)
        return inputs

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids: [T] -> [T, hidden_size]."""
        if "embedding" in self.packed:
            return self.packed["embedding"].rows(token_ids).to(self.dtype)
        return functional.embedding(token_ids, self.embedding)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [N, hidden_size] -> [N, vocab] float32."""
        if "head" in self.packed:
            return self.packed["head"](hidden, float32_out=True)
        return linear(hidden, self.head, float32_out=True)

    def norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """hidden: [..., width] normed -> the same shape and dtype; in float32 where the weight is."""
        return rms_norm(hidden, weight, self.config.norm_eps)

    def add_norm(self, added: Tensor, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """added and hidden: [T, width] -> their sum normed, and the sum."""
        return add_rms_norm(added, hidden, weight, self.config.norm_eps)

    def norm_heads(self, layer: Layer, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """query: [T, heads, head_dim], key: [T, kv_heads, head_dim] -> both with every head normed."""
        return self.norm(query, layer.query_norm), self.norm(key, layer.key_norm)

    def spec(self, layer: Layer) -> AttentionSpec:
        """How the layer attends."""
        config = self.config
        scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        window = config.window.tokens if config.window and layer.kind == "sliding" else None
        return AttentionSpec(scale, window, getattr(layer, "sinks", None))

    def _turns(self, positions: Tensor) -> Mapping[LayerKind, Turns]:
        scaling = self.config.rope_scaling
        magnitude = scaling.magnitude if scaling else 1.0
        full = rope_tables(positions, self.frequencies, self.dtype, magnitude)
        if self.local_frequencies is self.frequencies:
            return {"full": full, "sliding": full}
        return {"full": full, "sliding": rope_tables(positions, self.local_frequencies, self.dtype)}

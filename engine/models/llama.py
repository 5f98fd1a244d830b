"""The Llama family: one flat-token forward for prefill, decoding, training and scoring."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.catalog import ModelConfig, RopeScaling
from engine.models.adapters import Adapters
from engine.models.attention import Attention
from kernels.block_matmul import PackedLinear
from kernels.rms_norm import rms_norm
from kernels.rope import apply_rope, rope_tables
from kernels.swiglu import swiglu


class Layer(nn.Module):
    """The frozen weights of one decoder layer; projections that share an input lie in one matrix.

    Buffers: ``input_norm`` [hidden], ``qkv`` [query + 2 kv, hidden], ``output`` [hidden, query],
    ``post_norm`` [hidden], ``gate_up`` [2 ffn, hidden], ``down`` [hidden, ffn], and their biases or None.

    Attributes:
        packed: projections whose products run on packed weights instead; their buffers may be empty.
    """

    input_norm: Tensor
    qkv: Tensor
    output: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor
    qkv_bias: Tensor | None
    output_bias: Tensor | None
    gate_up_bias: Tensor | None
    down_bias: Tensor | None

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        for name, shape in layer_shapes(config).items():
            empty = None if shape is None else torch.empty(shape, dtype=dtype, device=device)
            self.register_buffer(name, empty)
        self.packed: dict[str, PackedLinear] = {}

    def project(self, name: str, inputs: Tensor) -> Tensor:
        """The projection ``name``: inputs [T, in] -> [T, out]."""
        if name in self.packed:
            return self.packed[name](inputs)
        return functional.linear(inputs, getattr(self, name), getattr(self, f"{name}_bias"))


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...] | None]:
    """Shape of each buffer of a layer; None for a bias that this model does not have."""
    hidden, query, kv, ffn = config.hidden_size, config.query_size, config.kv_size, config.ffn_size
    return {
        "input_norm": (hidden,),
        "qkv": (query + 2 * kv, hidden),
        "output": (hidden, query),
        "post_norm": (hidden,),
        "gate_up": (2 * ffn, hidden),
        "down": (hidden, ffn),
        "qkv_bias": (query + 2 * kv,) if config.attention_bias else None,
        "output_bias": (hidden,) if config.attention_bias else None,
        "gate_up_bias": (2 * ffn,) if config.mlp_bias else None,
        "down_bias": (hidden,) if config.mlp_bias else None,
    }


class CausalLM(nn.Module):
    """A decoder whose weights are frozen buffers, uninitialised until ``load_model`` fills them.

    Attributes:
        config: its architecture.
        dtype: of weights and activations.
        device: where it is.
        embedding: [vocab, hidden].
        head: [vocab, hidden]; the embedding itself when tied.
        frequencies: [head_dim / 2] f32, radians per position.
    """

    embedding: Tensor
    head: Tensor
    final_norm: Tensor
    frequencies: Tensor

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        empty = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device=self.device)
        self.register_buffer("embedding", empty)
        self.register_buffer("head", empty if config.tie_embeddings else torch.empty_like(empty))
        self.register_buffer("final_norm", torch.empty(config.hidden_size, dtype=dtype, device=self.device))
        frequencies = rope_frequencies(config.head_dim, config.rope_base, config.rope_scaling)
        self.register_buffer("frequencies", frequencies.to(self.device))
        self.layers = nn.ModuleList(Layer(config, dtype, self.device) for _ in range(config.layers))

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
        hidden = functional.embedding(token_ids, self.embedding)
        tables = rope_tables(positions, self.frequencies, self.dtype)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            wanted = rows if index == len(self.layers) - 1 else None
            attended = self._attend(index, layer, hidden, tables, attention, adapters, wanted)
            hidden = (hidden if wanted is None else hidden.index_select(0, wanted)) + attended
            hidden = hidden + self._feed_forward(index, layer, hidden, adapters)
        return rms_norm(hidden, self.final_norm, self.config.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [N, hidden_size] -> [N, vocab] float32."""
        return functional.linear(hidden, self.head).float()

    def _attend(
        self,
        index: int,
        layer: Layer,
        hidden: Tensor,
        tables: tuple[Tensor, Tensor],
        attention: Attention,
        adapters: Adapters | None,
        wanted: Tensor | None,
    ) -> Tensor:
        config = self.config
        inputs = rms_norm(hidden, layer.input_norm, config.norm_eps)
        parts = layer.project("qkv", inputs)
        rotated = config.heads + config.kv_heads
        if adapters is None:
            heads = parts.view(-1, rotated + config.kv_heads, config.head_dim)
            turned = apply_rope(heads[:, :rotated], *tables)
            query, key, value = turned[:, : config.heads], turned[:, config.heads :], heads[:, rotated:]
        else:
            sizes = (config.query_size, config.kv_size, config.kv_size)
            query, key, value = (
                adapters.apply(index, target, inputs, part).reshape(len(inputs), -1, config.head_dim)
                for target, part in zip(("q_proj", "k_proj", "v_proj"), parts.split(sizes, 1), strict=True)
            )
            query, key = apply_rope(query, *tables), apply_rope(key, *tables)
        mixed = attention(index, query, key, value).reshape(len(inputs), config.query_size)
        if wanted is not None:
            mixed = mixed.index_select(0, wanted)
        outputs = layer.project("output", mixed)
        return outputs if adapters is None else adapters.apply(index, "o_proj", mixed, outputs)

    def _feed_forward(self, index: int, layer: Layer, hidden: Tensor, adapters: Adapters | None) -> Tensor:
        inputs = rms_norm(hidden, layer.post_norm, self.config.norm_eps)
        gate, up = layer.project("gate_up", inputs).chunk(2, 1)
        if adapters is not None:
            gate = adapters.apply(index, "gate_proj", inputs, gate)
            up = adapters.apply(index, "up_proj", inputs, up)
        active = swiglu(gate, up)
        outputs = layer.project("down", active)
        return outputs if adapters is None else adapters.apply(index, "down_proj", active, outputs)


def rope_frequencies(head_dim: int, base: float, scaling: RopeScaling | None) -> Tensor:
    """[head_dim / 2] f32: radians per position of each plane, stretched as the model wants.

    ``stored`` scaling divides by a tensor in the weights file, which ``load_model`` does.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / base**exponents
    if scaling is None or scaling.kind == "stored":
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    smooth = ((scaling.original_context / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies

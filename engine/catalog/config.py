"""A model's architecture in one frozen record, and the table of the families that fw runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fw_sdk.types import FwError

ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
TARGETS = (*ATTENTION_TARGETS, "gate_proj", "up_proj", "down_proj")
LayerKind = Literal["full", "sliding", "recurrent"]


@dataclass(frozen=True)
class Family:
    """An architecture family and how files name it.

    Attributes:
        architectures: ``model_type`` of a config.json -> its architecture.
        gguf: ``general.architecture`` of a GGUF file; None if fw reads none.
        head_norms: each query and key head is normed.
        layer_norms: norms of a layer over the hidden width.
        sinks: each head has an attention sink.
        output_gate: what each query head reads is gated; the query projection has a gate's rows behind each head's.
    """

    architectures: dict[str, str]
    gguf: str | None
    head_norms: bool = False
    layer_norms: int = 2
    sinks: bool = False
    output_gate: bool = False


FAMILIES = {
    "llama": Family({"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}, "llama"),
    "qwen2": Family({"qwen2": "Qwen2ForCausalLM"}, "qwen2"),
    "qwen3": Family({"qwen3": "Qwen3ForCausalLM"}, "qwen3", head_norms=True),
    "qwen3_moe": Family({"qwen3_moe": "Qwen3MoeForCausalLM"}, "qwen3moe", head_norms=True),
    "gemma3": Family(
        {"gemma3_text": "Gemma3ForCausalLM", "gemma3": "Gemma3ForConditionalGeneration"},
        "gemma3",
        head_norms=True,
        layer_norms=4,
    ),
    "gpt_oss": Family({"gpt_oss": "GptOssForCausalLM"}, "gpt-oss", sinks=True),
    "qwen3_next": Family(
        {
            "qwen3_next": "Qwen3NextForCausalLM",
            "qwen3_5_text": "Qwen3_5ForCausalLM",
            "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
            "qwen3_5": "Qwen3_5ForConditionalGeneration",
            "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
        },
        None,
        head_norms=True,
        output_gate=True,
    ),
}
"""Every family by its name: the one list of what is supported. ``engine.models.registry`` has a class for each."""


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    Attributes:
        kind: ``linear`` (all by ``factor``), ``llama3`` (low frequencies by ``factor``, smoothly), ``yarn`` (the same
            between two numbers of turns within the trained context), or ``stored`` (one divisor per frequency, in the
            weights file's tensor ``rope_freqs.weight``).
        factor: the stretch.
        low_frequency_factor: llama3: wavelengths above ``original_context / low_frequency_factor`` are stretched fully;
            yarn: planes that turn less often than this.
        high_frequency_factor: llama3: those below ``original_context / high_frequency_factor`` not at all; yarn: planes
            that turn more often than this.
        original_context: llama3 and yarn: the trained context in tokens.
        magnitude: yarn: factor on the cosine and sine.
        whole_planes: yarn: the two bounds are rounded to whole planes.
    """

    kind: str
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192
    magnitude: float = 1.0
    whole_planes: bool = True


@dataclass(frozen=True)
class SlidingWindow:
    """What the layers of the kind ``sliding`` do differently.

    Attributes:
        tokens: how many each token sees, itself included.
        rope_base: of their own rotary frequencies, which are not stretched; None if they share the other layers'.
    """

    tokens: int
    rope_base: float | None = None


@dataclass(frozen=True)
class Recurrence:
    """The layers of the kind ``recurrent``: gated delta nets, with a state of fixed size instead of keys and values.

    Attributes:
        key_heads: heads of queries and keys.
        value_heads: heads of values, a multiple of those.
        key_dim: width of a query and of a key.
        value_dim: width of a value.
        taps: inputs that the convolution sees.
        grouped: the file keeps what belongs to one key head together.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    grouped: bool

    @property
    def value_size(self) -> int:
        """Width of all values together."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Width of all queries, keys and values together."""
        return 2 * self.key_heads * self.key_dim + self.value_size

    @property
    def state_bytes(self) -> int:
        """One sequence's state in one layer, float32: the convolution's last inputs and a matrix per value head."""
        return 4 * ((self.taps - 1) * self.channels + self.value_heads * self.key_dim * self.value_dim)

    def parameters(self, hidden_size: int) -> int:
        """Weights of one layer, without its feed-forward part and its norms over the hidden width."""
        projections = hidden_size * (self.channels + 2 * self.value_size + 2 * self.value_heads)
        return projections + self.taps * self.channels + 2 * self.value_heads + self.value_dim


@dataclass(frozen=True)
class Experts:
    """The feed-forward part of each layer as a mixture of experts.

    Attributes:
        count: experts of a layer.
        chosen: of these, how many each token uses.
        ffn_size: inner width of one expert.
        normalised: the weights of a token's experts sum to 1.
        shared_ffn_size: inner width of one more that every token uses, behind a gate; 0 if there is none.
    """

    count: int
    chosen: int
    ffn_size: int
    normalised: bool = True
    shared_ffn_size: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's architecture. Sizes are counts; ``max_context`` is in tokens.

    Attributes:
        family: one of ``FAMILIES``; what is the same in a whole family stands in its class, not here.
        ffn_size: of a dense feed-forward part; 0 if every layer has experts.
        attention_bias: of the query, key and value projections.
        output_bias: of the projection behind the attention.
        layer_kinds: of each layer; empty if all are ``full``.
        window: of the ``sliding`` layers.
        attention_scale: factor on the scores; None for ``head_dim ** -0.5``.
        experts: None for a dense model.
        recurrence: of the ``recurrent`` layers.
        rotary_dim: how much of each head is turned; None for all.
    """

    family: str
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int
    norm_eps: float
    rope_base: float
    rope_scaling: RopeScaling | None
    max_context: int
    tie_embeddings: bool
    eos_ids: tuple[int, ...]
    bos_id: int | None
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    layer_kinds: tuple[LayerKind, ...] = ()
    window: SlidingWindow | None = None
    attention_scale: float | None = None
    experts: Experts | None = None
    recurrence: Recurrence | None = None
    rotary_dim: int | None = None

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, which is also that of the value heads."""
        return self.kv_heads * self.head_dim

    @property
    def targets(self) -> tuple[str, ...]:
        """What an adapter may change in this model, out of ``TARGETS``: the experts of a mixture it may not."""
        return ATTENTION_TARGETS if self.experts else TARGETS

    @property
    def parameters(self) -> int:
        """Number of weights; a tied output head counts once."""
        family = FAMILIES[self.family]
        attention = sum(inputs * outputs for inputs, outputs in map(self.target_shape, ATTENTION_TARGETS))
        attention += self.attention_bias * (self.query_size + 2 * self.kv_size) + self.output_bias * self.hidden_size
        attention += family.head_norms * 2 * self.head_dim + family.sinks * self.heads
        mixers = self.attention_layers * attention
        if self.recurrence:
            mixers += self.recurrent_layers * self.recurrence.parameters(self.hidden_size)
        rest = self._feed_forward_parameters + family.layer_norms * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + self.hidden_size + mixers + self.layers * rest

    @property
    def multiplied(self) -> int:
        """Weights of the layers that each token is multiplied with: of a mixture, only the chosen experts'."""
        attention = sum(inputs * outputs for inputs, outputs in map(self.target_shape, ATTENTION_TARGETS))
        width = self.ffn_size
        if self.experts:
            width = self.experts.ffn_size * self.experts.chosen + self.experts.shared_ffn_size
        mixers = self.attention_layers * attention
        if self.recurrence:
            mixers += self.recurrent_layers * self.recurrence.parameters(self.hidden_size)
        return mixers + self.layers * 3 * self.hidden_size * width

    @property
    def _feed_forward_parameters(self) -> int:
        """Weights of one layer's feed-forward part; with a bias, a mixture's router has one too."""
        width, hidden = self.experts.ffn_size if self.experts else self.ffn_size, self.hidden_size
        one = 3 * hidden * width + self.mlp_bias * (2 * width + hidden)
        if not self.experts:
            return one
        shared = hidden * (3 * self.experts.shared_ffn_size + 1) if self.experts.shared_ffn_size else 0
        return self.experts.count * (one + hidden + self.mlp_bias) + shared

    def kind(self, layer: int) -> LayerKind:
        """Kind of a layer."""
        return self.layer_kinds[layer] if self.layer_kinds else "full"

    @property
    def recurrent_layers(self) -> int:
        """How many layers have a recurrent state."""
        return self.layer_kinds.count("recurrent")

    @property
    def attention_layers(self) -> int:
        """How many layers have keys and values."""
        return self.layers - self.recurrent_layers

    def cache_index(self, layer: int) -> int:
        """The layer's index in its cache: among those with a recurrent state, or those with keys and values."""
        recurrent = self.layer_kinds[:layer].count("recurrent")
        return recurrent if self.kind(layer) == "recurrent" else layer - recurrent

    def layer_targets(self, layer: int) -> tuple[str, ...]:
        """Those of ``targets`` that the layer has."""
        recurrent = self.kind(layer) == "recurrent"
        return tuple(target for target in self.targets if not (recurrent and target in ATTENTION_TARGETS))

    def target_shape(self, target: str) -> tuple[int, int]:
        """(inputs, outputs) of one of ``TARGETS``."""
        return {
            "q_proj": (self.hidden_size, self.query_size * (1 + FAMILIES[self.family].output_gate)),
            "k_proj": (self.hidden_size, self.kv_size),
            "v_proj": (self.hidden_size, self.kv_size),
            "o_proj": (self.query_size, self.hidden_size),
            "gate_proj": (self.hidden_size, self.ffn_size),
            "up_proj": (self.hidden_size, self.ffn_size),
            "down_proj": (self.ffn_size, self.hidden_size),
        }[target]


def unsupported_model(reason: str) -> FwError:
    """The error for a model that fw cannot run; ``reason`` is a sentence without its full stop."""
    names = [name for family in FAMILIES.values() for name in family.architectures.values()]
    ggufs = [family.gguf for family in FAMILIES.values() if family.gguf]
    return FwError(
        "model_unsupported",
        f"This model cannot be run here. {reason}.",
        not_done="No model was loaded.",
        hint=f"supported are {', '.join(names)}, and GGUF files of the architectures {', '.join(ggufs)}",
        param="path",
    )

"""A model's architecture in one frozen record, from Hugging Face's config.json or from GGUF metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.catalog.gguf_file import GgufFile
from engine.catalog.model_files import find_model_files
from fw_sdk.types import FwError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
MAX_DIMENSION = 1 << 24


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    Attributes:
        kind: ``linear`` (all by ``factor``), ``llama3`` (low frequencies by ``factor``, smoothly), or ``stored``
            (one divisor per frequency, in the weights file's tensor ``rope_freqs.weight``).
        factor: the stretch.
        low_frequency_factor: llama3: wavelengths above ``original_context / low_frequency_factor`` are stretched fully.
        high_frequency_factor: llama3: those below ``original_context / high_frequency_factor`` not at all.
        original_context: llama3: the trained context in tokens.
    """

    kind: str
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-style decoder. Sizes are counts; ``max_context`` is in tokens."""

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
    attention_bias: bool
    mlp_bias: bool

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, which is also that of the value heads."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Number of weights; a tied output head counts once."""
        linear = sum(inputs * outputs for inputs, outputs in map(self.target_shape, TARGETS))
        bias = self.attention_bias * (self.query_size + 2 * self.kv_size + self.hidden_size)
        bias += self.mlp_bias * (2 * self.ffn_size + self.hidden_size)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + self.hidden_size + self.layers * (linear + bias + 2 * self.hidden_size)

    def target_shape(self, target: str) -> tuple[int, int]:
        """(inputs, outputs) of one of ``TARGETS``."""
        return {
            "q_proj": (self.hidden_size, self.query_size),
            "k_proj": (self.hidden_size, self.kv_size),
            "v_proj": (self.hidden_size, self.kv_size),
            "o_proj": (self.query_size, self.hidden_size),
            "gate_proj": (self.hidden_size, self.ffn_size),
            "up_proj": (self.hidden_size, self.ffn_size),
            "down_proj": (self.ffn_size, self.hidden_size),
        }[target]


def read_config(path: Path) -> ModelConfig:
    """The architecture of the model at ``path``: a Hugging Face folder, a folder with one GGUF file, or that file.

    Raises:
        FwError: ``not_found`` if nothing is there, ``model_unsupported`` if fw cannot run what is there.
    """
    files = find_model_files(path)
    try:
        return _checked(config_from_gguf(GgufFile.open(files.gguf)) if files.gguf else _from_folder(files.root))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unsupported(f"Its configuration cannot be read: {type(error).__name__}: {error}") from error


def check_decoder(folder: Path) -> None:
    """Raise ``model_unsupported`` if fw cannot run what the folder's config.json describes; weights may be missing."""
    try:
        _checked(_from_folder(folder))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unsupported(f"Its configuration cannot be read: {type(error).__name__}: {error}") from error


def _from_folder(folder: Path) -> ModelConfig:
    fields = json.loads((folder / "config.json").read_bytes())
    generation = folder / "generation_config.json"
    if generation.is_file():
        eos = json.loads(generation.read_bytes()).get("eos_token_id")
        if eos is not None:
            fields["eos_token_id"] = _ids(fields.get("eos_token_id")) + _ids(eos)
    return config_from_hf(fields)


def config_from_hf(fields: dict[str, Any]) -> ModelConfig:
    """From the fields of a config.json (as transformers 4 and 5 write it)."""
    family = fields.get("model_type")
    architectures = fields.get("architectures") or [ARCHITECTURES.get(str(family))]
    if family not in ARCHITECTURES or architectures != [ARCHITECTURES[family]]:
        raise _unsupported(f"Its architecture is {architectures[0] or family!r}")
    if fields.get("hidden_act", "silu") != "silu":
        raise _unsupported(f"Its activation is {fields['hidden_act']!r}, not 'silu'")
    if fields.get("quantization_config"):
        raise _unsupported("Its safetensors are quantised")
    rope = {**(fields.get("rope_scaling") or {}), **(fields.get("rope_parameters") or {})}
    context = int(fields["max_position_embeddings"])
    return ModelConfig(
        family="llama",
        vocab_size=int(fields["vocab_size"]),
        hidden_size=int(fields["hidden_size"]),
        layers=int(fields["num_hidden_layers"]),
        heads=int(fields["num_attention_heads"]),
        kv_heads=int(fields.get("num_key_value_heads") or fields["num_attention_heads"]),
        head_dim=int(fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]),
        ffn_size=int(fields["intermediate_size"]),
        norm_eps=float(fields.get("rms_norm_eps", 1e-6)),
        rope_base=float(rope.get("rope_theta") or fields.get("rope_theta") or 10_000.0),
        rope_scaling=_scaling(rope, context),
        max_context=min(context, int(fields.get("sliding_window") or context)),
        tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
        eos_ids=tuple(dict.fromkeys(_ids(fields.get("eos_token_id")))),
        bos_id=fields.get("bos_token_id"),
        attention_bias=bool(fields.get("attention_bias", False)),
        mlp_bias=bool(fields.get("mlp_bias", False)),
    )


def config_from_gguf(file: GgufFile) -> ModelConfig:
    """From a GGUF file's metadata and the names of its tensors."""
    meta = file.metadata
    family = meta.get("general.architecture")
    if family != "llama" or meta.get("llama.expert_count"):
        raise _unsupported(f"Its architecture is {'a mixture of experts' if family == 'llama' else repr(family)}")
    heads, hidden = int(meta["llama.attention.head_count"]), int(meta["llama.embedding_length"])
    head_dim = int(meta.get("llama.attention.key_length") or hidden // heads)
    if int(meta.get("llama.rope.dimension_count", head_dim)) != head_dim:
        raise _unsupported("It rotates only a part of each head")
    eos = [meta.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    return ModelConfig(
        family="llama",
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=hidden,
        layers=int(meta["llama.block_count"]),
        heads=heads,
        kv_heads=int(meta.get("llama.attention.head_count_kv", heads)),
        head_dim=head_dim,
        ffn_size=int(meta["llama.feed_forward_length"]),
        norm_eps=float(meta["llama.attention.layer_norm_rms_epsilon"]),
        rope_base=float(meta.get("llama.rope.freq_base", 10_000.0)),
        rope_scaling=_gguf_scaling(file),
        max_context=int(meta["llama.context_length"]),
        tie_embeddings="output.weight" not in file.tensors,
        eos_ids=tuple(dict.fromkeys(int(value) for value in eos if value is not None)),
        bos_id=meta.get("tokenizer.ggml.bos_token_id"),
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
    )


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(item) for item in value] if isinstance(value, list) else [int(value)]


def _scaling(rope: dict[str, Any], context: int) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope.get("original_max_position_embeddings") or context),
        )
    raise _unsupported(f"Its rope scaling is {kind!r}; supported are 'linear' and 'llama3'")


def _gguf_scaling(file: GgufFile) -> RopeScaling | None:
    kind = file.metadata.get("llama.rope.scaling.type", "none")
    if kind == "linear":
        return RopeScaling("linear", float(file.metadata["llama.rope.scaling.factor"]))
    if kind != "none":
        raise _unsupported(f"Its rope scaling is {kind!r}; supported is 'linear'")
    return RopeScaling("stored") if "rope_freqs.weight" in file.tensors else None


def _checked(config: ModelConfig) -> ModelConfig:
    sizes = [config.vocab_size, config.hidden_size, config.layers, config.heads, config.kv_heads]
    sizes += [config.head_dim, config.ffn_size, config.max_context]
    if min(sizes) < 1 or max(sizes) > MAX_DIMENSION:
        raise _unsupported(f"Its sizes are out of range: {sizes}")
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise _unsupported(f"{config.heads} heads, {config.kv_heads} key-value heads of {config.head_dim} do not fit")
    return config


def _unsupported(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This model cannot be run here. {reason}.",
        not_done="No model was loaded.",
        hint=f"supported are unquantised {' and '.join(ARCHITECTURES.values())}, and Llama-style GGUF files",
    )

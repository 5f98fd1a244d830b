"""A model's architecture from the fields of a Hugging Face config.json, as transformers 4 and 5 write it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from engine.catalog.config import (
    FAMILIES,
    Experts,
    LayerKind,
    ModelConfig,
    Recurrence,
    RopeScaling,
    SlidingWindow,
    unsupported_model,
)
from engine.catalog.quantisation import quantisation_of

Fields = dict[str, Any]
FAMILY_OF = {name: family for family, record in FAMILIES.items() for name in record.architectures}


def config_from_hf(fields: Fields) -> ModelConfig:
    """From the fields of a config.json.

    Raises:
        FwError: ``model_unsupported`` for another family or for what fw does not compute.
        KeyError, TypeError, ValueError: a field is missing or malformed.
    """
    name = str(fields.get("model_type"))
    architectures = fields.get("architectures")
    family = FAMILY_OF.get(name)
    if family is None or not _is_of(architectures, FAMILIES[family].architectures[name]):
        raise unsupported_model(f"Its architecture is {architectures[0] if architectures else repr(name)}")
    quantisation_of(fields)
    return READERS[name](fields)


def _is_of(architectures: list[str] | None, named: str) -> bool:
    """Whether that architecture is stated, or none, or the same without its head, as embedding models are saved."""
    return not architectures or architectures in ([named], [named.replace("ForCausalLM", "Model")])


def token_ids(value: Any) -> list[int]:
    """Token ids that a field holds: one, several or none."""
    if value is None:
        return []
    return [int(item) for item in value] if isinstance(value, list) else [int(value)]


def _llama(fields: Fields) -> ModelConfig:
    bias = bool(fields.get("attention_bias", False))
    return _decoder(fields, attention_bias=bias, output_bias=bias, mlp_bias=bool(fields.get("mlp_bias", False)))


def _mistral(fields: Fields) -> ModelConfig:
    config = _decoder(fields)
    window = fields.get("sliding_window")
    if not window or window >= config.max_context:
        return config
    return _decoder(fields, layer_kinds=("sliding",) * config.layers, window=SlidingWindow(int(window)))


def _qwen2(fields: Fields) -> ModelConfig:
    return _decoder(fields, attention_bias=True, **_upper_windows(fields))


def _qwen3(fields: Fields) -> ModelConfig:
    bias = bool(fields.get("attention_bias", False))
    fields = {"head_dim": 128, **fields}
    return _decoder(fields, attention_bias=bias, output_bias=bias, **_upper_windows(fields))


def _qwen3_moe(fields: Fields) -> ModelConfig:
    if fields.get("mlp_only_layers") or fields.get("decoder_sparse_step", 1) != 1:
        raise unsupported_model("Only some of its layers have experts")
    bias = bool(fields.get("attention_bias", False))
    count = fields["num_experts"] if "num_experts" in fields else fields["num_local_experts"]
    experts = Experts(
        int(count),
        int(fields["num_experts_per_tok"]),
        int(fields["moe_intermediate_size"]),
        bool(fields.get("norm_topk_prob", False)),
    )
    more: dict[str, Any] = {"ffn_size": 0, "attention_bias": bias, "output_bias": bias, "experts": experts}
    if fields.get("use_sliding_window") and fields.get("sliding_window"):
        more["layer_kinds"] = ("sliding",) * int(fields["num_hidden_layers"])
        more["window"] = SlidingWindow(int(fields["sliding_window"]))
    return _decoder(fields, **more)


def _upper_windows(fields: Fields) -> dict[str, Any]:
    """Qwen: the layers from ``max_window_layers`` on have windows, unless the file names each layer's kind."""
    window, count = fields.get("sliding_window"), int(fields["num_hidden_layers"])
    if not fields.get("use_sliding_window") or not window:
        return {}
    first = int(fields.get("max_window_layers", 28))
    kinds = _named_kinds(fields) or ("full",) * min(first, count) + ("sliding",) * max(count - first, 0)
    return {"layer_kinds": kinds, "window": SlidingWindow(int(window))} if "sliding" in kinds else {}


def _named_kinds(fields: Fields) -> tuple[LayerKind, ...] | None:
    """The kinds of layers as ``layer_types`` names them; None where it is not given."""
    names = fields.get("layer_types")
    unknown = sorted(set(names or ()) - set(KINDS))
    if unknown:
        raise unsupported_model(f"It has layers of the kind {unknown[0]!r}")
    return tuple(KINDS[name] for name in names) if names else None


def _gemma3(fields: Fields) -> ModelConfig:
    fields = {**GEMMA3_DEFAULTS, **fields}
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if fields.get(name):
            raise unsupported_model(f"It sets {name}")
    ropes = fields.get("rope_parameters") or {}
    full = ropes.get("full_attention") or {
        "rope_theta": fields.get("rope_theta", 1e6),
        **(fields.get("rope_scaling") or {}),
    }
    local = ropes.get("sliding_attention") or {"rope_theta": fields.get("rope_local_base_freq", 1e4)}
    if local.get("rope_type", "default") != "default":
        raise unsupported_model("The rotary frequencies of its sliding layers are stretched")
    every = int(fields.get("sliding_window_pattern") or 6)
    layers = range(1, int(fields["num_hidden_layers"]) + 1)
    bias = bool(fields.get("attention_bias", False))
    return _decoder(
        {**fields, "rope_parameters": full, "rope_scaling": None},
        activation="hidden_activation",
        expected="gelu_pytorch_tanh",
        attention_bias=bias,
        output_bias=bias,
        attention_scale=float(fields["query_pre_attn_scalar"]) ** -0.5,
        layer_kinds=_named_kinds(fields) or tuple("full" if n % every == 0 else "sliding" for n in layers),
        window=SlidingWindow(int(fields["sliding_window"]), float(local["rope_theta"])),
    )


def _text_part(fields: Fields) -> Fields:
    """The fields of the text part of a model that also sees pictures."""
    text = dict(fields["text_config"])
    text["eos_token_id"] = token_ids(text.get("eos_token_id")) + token_ids(fields.get("eos_token_id"))
    if "tie_word_embeddings" in fields:
        text.setdefault("tie_word_embeddings", fields["tie_word_embeddings"])
    return {**text, "model_type": fields["model_type"]}


def _gpt_oss(fields: Fields) -> ModelConfig:
    fields = {**GPT_OSS_FIXED, "head_dim": 64, "attention_bias": True, **fields}
    for name, fixed in GPT_OSS_FIXED.items():
        if fields[name] != fixed:
            raise unsupported_model(f"Its {name} is {fields[name]}, not {fixed}")
    bias = bool(fields["attention_bias"])
    layers = int(fields["num_hidden_layers"])
    alternating: tuple[LayerKind, ...] = tuple("full" if index % 2 else "sliding" for index in range(layers))
    count, chosen = int(fields["num_local_experts"]), int(fields["num_experts_per_tok"])
    return _decoder(
        fields,
        ffn_size=0,
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=True,
        layer_kinds=_named_kinds(fields) or alternating,
        window=SlidingWindow(int(fields["sliding_window"])),
        experts=Experts(count, chosen, int(fields["intermediate_size"])),
    )


def _qwen3_next(fields: Fields) -> ModelConfig:
    """Gated delta nets, with full attention in every fourth layer."""
    if fields.get("attention_bias"):
        raise unsupported_model("Its attention projections have biases")
    if fields.get("mlp_only_layers") or fields.get("decoder_sparse_step", 1) != 1:
        raise unsupported_model("Only some of its layers have experts")
    layers = range(1, int(fields["num_hidden_layers"]) + 1)
    every = int(fields.get("full_attention_interval") or 4)
    names = fields.get("layer_types") or ["linear_attention" if n % every else "full_attention" for n in layers]
    share = _rope_fields(fields).get("partial_rotary_factor") or fields.get("partial_rotary_factor") or 0.25
    recurrence = Recurrence(
        int(fields["linear_num_key_heads"]),
        int(fields["linear_num_value_heads"]),
        int(fields["linear_key_head_dim"]),
        int(fields["linear_value_head_dim"]),
        int(fields["linear_conv_kernel_dim"]),
        grouped=fields["model_type"] == "qwen3_next",
    )
    more: dict[str, Any] = {
        "rotary_dim": int(int(fields["head_dim"]) * float(share)),
        "layer_kinds": tuple({"linear_attention": "recurrent", "full_attention": "full"}[name] for name in names),
        "recurrence": recurrence,
    }
    if fields.get("num_experts"):
        more["ffn_size"] = 0
        more["experts"] = Experts(
            int(fields["num_experts"]),
            int(fields["num_experts_per_tok"]),
            int(fields["moe_intermediate_size"]),
            bool(fields.get("norm_topk_prob", True)),
            int(fields["shared_expert_intermediate_size"]),
        )
    return _decoder(fields, **more)


GPT_OSS_FIXED: Fields = {"swiglu_alpha": 1.702, "swiglu_limit": 7.0}
GEMMA3_DEFAULTS: Fields = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
"""What its files leave out where it is as here."""
KINDS: dict[str, LayerKind] = {"full_attention": "full", "sliding_attention": "sliding"}
READERS: dict[str, Callable[[Fields], ModelConfig]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gemma3_text": _gemma3,
    "gemma3": lambda fields: _gemma3(_text_part(fields)),
    "gpt_oss": _gpt_oss,
    "qwen3_next": _qwen3_next,
    "qwen3_5_text": _qwen3_next,
    "qwen3_5_moe_text": _qwen3_next,
    "qwen3_5": lambda fields: _qwen3_next(_text_part(fields)),
    "qwen3_5_moe": lambda fields: _qwen3_next(_text_part(fields)),
}
"""By ``model_type``."""


def _decoder(fields: Fields, *, activation: str = "hidden_act", expected: str = "silu", **more: Any) -> ModelConfig:
    """What the families have in common; ``more`` adds fields or takes their place.

    ``expected`` is the one activation of the family, in the field ``activation``.
    """
    if fields.get(activation, expected) != expected:
        raise unsupported_model(f"Its activation is {fields[activation]!r}, not {expected!r}")
    rope = _rope_fields(fields)
    if "rotary_dim" not in more and float(rope.get("partial_rotary_factor") or 1) != 1:
        raise unsupported_model("It rotates only a part of each head")
    heads = int(fields["num_attention_heads"])
    common = {
        "family": FAMILY_OF[fields["model_type"]],
        "vocab_size": int(fields["vocab_size"]),
        "hidden_size": int(fields["hidden_size"]),
        "layers": int(fields["num_hidden_layers"]),
        "heads": heads,
        "kv_heads": int(fields.get("num_key_value_heads") or heads),
        "head_dim": int(fields.get("head_dim") or fields["hidden_size"] // heads),
        "ffn_size": int(fields["intermediate_size"]),
        "norm_eps": float(fields.get("rms_norm_eps", 1e-6)),
        "rope_base": float(rope.get("rope_theta") or 10_000.0),
        "rope_scaling": _scaling(rope, int(fields["max_position_embeddings"])),
        "max_context": int(fields["max_position_embeddings"]),
        "tie_embeddings": bool(fields.get("tie_word_embeddings", False)),
        "eos_ids": tuple(dict.fromkeys(token_ids(fields.get("eos_token_id")))),
        "bos_id": fields.get("bos_token_id"),
    }
    return ModelConfig(**{**common, **more})


def _rope_fields(fields: Fields) -> Fields:
    """Base and scaling of the rotary frequencies, wherever the file keeps them."""
    both = {**(fields.get("rope_scaling") or {}), **(fields.get("rope_parameters") or {})}
    return {"rope_theta": fields.get("rope_theta"), **both}


def _scaling(rope: Fields, context: int) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind not in SCALINGS:
        raise unsupported_model(f"Its rope scaling is {kind!r}; supported are {', '.join(SCALINGS)}")
    original = int(rope.get("original_max_position_embeddings") or context)
    return SCALINGS[kind](rope, original)


def _linear(rope: Fields, _original: int) -> RopeScaling:
    return RopeScaling("linear", float(rope["factor"]))


def _llama3(rope: Fields, original: int) -> RopeScaling:
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    return RopeScaling("llama3", float(rope["factor"]), low, high, original)


def _yarn(rope: Fields, original: int) -> RopeScaling:
    factor = float(rope["factor"])
    magnitude = rope.get("attention_factor")
    if magnitude is None:
        both = rope.get("mscale"), rope.get("mscale_all_dim")
        magnitude = (
            yarn_magnitude(factor, both[0]) / yarn_magnitude(factor, both[1]) if all(both) else yarn_magnitude(factor)
        )
    return RopeScaling(
        "yarn",
        factor,
        float(rope.get("beta_slow") or 1),
        float(rope.get("beta_fast") or 32),
        original,
        float(magnitude),
        bool(rope.get("truncate", True)),
    )


def yarn_magnitude(factor: float, strength: Any = 1.0) -> float:
    """YaRN's rule for how much larger the scores of a context ``factor`` times longer must be."""
    return 0.1 * float(strength) * math.log(factor) + 1.0 if factor > 1 else 1.0


SCALINGS = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
"""By ``rope_type``."""

"""A model's architecture from a GGUF file's metadata and the names of its tensors."""

from __future__ import annotations

from typing import Any

from engine.catalog.config import FAMILIES, Experts, ModelConfig, RopeScaling, SlidingWindow, unsupported_model
from engine.catalog.gguf_file import GgufFile
from engine.catalog.hf_config import yarn_magnitude

FAMILY_OF = {record.gguf: family for family, record in FAMILIES.items() if record.gguf}


class _Metadata:
    """The architecture's own keys of a file, without their prefix."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.architecture = str(file.metadata.get("general.architecture"))

    def __getitem__(self, key: str) -> Any:
        return self.file.metadata[f"{self.architecture}.{key}"]

    def get(self, key: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"{self.architecture}.{key}", default)


def config_from_gguf(file: GgufFile) -> ModelConfig:
    """From a GGUF file.

    Raises:
        FwError: ``model_unsupported`` for another family or for what fw does not compute.
        KeyError, TypeError, ValueError: an entry is missing or malformed.
    """
    meta = _Metadata(file)
    if meta.architecture not in FAMILY_OF:
        raise unsupported_model(f"Its architecture is {meta.architecture!r}")
    return READERS[FAMILY_OF[meta.architecture]](meta)


def _llama(meta: _Metadata) -> ModelConfig:
    if meta.get("expert_count"):
        raise unsupported_model("Its architecture is a mixture of experts of the Llama kind")
    return _decoder(meta)


def _decoder(meta: _Metadata, **more: Any) -> ModelConfig:
    """What the families have in common; ``more`` adds fields or takes their place."""
    tensors, tokenizer = meta.file.tensors, meta.file.metadata
    heads, hidden = int(meta["attention.head_count"]), int(meta["embedding_length"])
    head_dim = int(meta.get("attention.key_length") or hidden // heads)
    if int(meta.get("rope.dimension_count", head_dim)) != head_dim:
        raise unsupported_model("It rotates only a part of each head")
    eos = [tokenizer.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    common = {
        "family": FAMILY_OF[meta.architecture],
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "layers": int(meta["block_count"]),
        "heads": heads,
        "kv_heads": int(meta.get("attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "ffn_size": int(meta.get("feed_forward_length", 0)),
        "norm_eps": float(meta["attention.layer_norm_rms_epsilon"]),
        "rope_base": float(meta.get("rope.freq_base", 10_000.0)),
        "rope_scaling": _scaling(meta),
        "max_context": int(meta["context_length"]),
        "tie_embeddings": "output.weight" not in tensors,
        "eos_ids": tuple(dict.fromkeys(int(value) for value in eos if value is not None)),
        "bos_id": tokenizer.get("tokenizer.ggml.bos_token_id"),
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "output_bias": "blk.0.attn_output.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }
    return ModelConfig(**{**common, **more})


def _scaling(meta: _Metadata) -> RopeScaling | None:
    kind = meta.get("rope.scaling.type", "none")
    if kind == "linear":
        return RopeScaling("linear", float(meta["rope.scaling.factor"]))
    if kind == "yarn":
        return _yarn(meta)
    if kind != "none":
        raise unsupported_model(f"Its rope scaling is {kind!r}; supported are 'linear' and 'yarn'")
    return RopeScaling("stored") if "rope_freqs.weight" in meta.file.tensors else None


def _yarn(meta: _Metadata) -> RopeScaling:
    factor = float(meta["rope.scaling.factor"])
    return RopeScaling(
        "yarn",
        factor,
        float(meta.get("rope.scaling.yarn_beta_slow") or 1),
        float(meta.get("rope.scaling.yarn_beta_fast") or 32),
        int(meta.get("rope.scaling.original_context_length") or meta["context_length"]),
        yarn_magnitude(factor) * float(meta.get("rope.scaling.attn_factor") or 1),
        whole_planes=FAMILY_OF[meta.architecture] != "gpt_oss",
    )


def _qwen3_moe(meta: _Metadata) -> ModelConfig:
    count, chosen = int(meta["expert_count"]), int(meta["expert_used_count"])
    experts = Experts(count, chosen, int(meta["expert_feed_forward_length"]), normalised=True)
    return _decoder(meta, ffn_size=0, experts=experts)


def _gemma3(meta: _Metadata) -> ModelConfig:
    layers = range(1, int(meta["block_count"]) + 1)
    pattern = meta.get("attention.sliding_window_pattern", 6)
    sliding = pattern if isinstance(pattern, list) else [n % int(pattern) != 0 for n in layers]
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if meta.get(name):
            raise unsupported_model(f"It sets {name}")
    heads, hidden = int(meta["attention.head_count"]), int(meta["embedding_length"])
    width = hidden // heads if len(layers) == GEMMA3_27B_LAYERS else int(meta.get("attention.key_length") or 256)
    return _decoder(
        meta,
        attention_scale=float(meta.get("attention.scale") or width**-0.5),
        rope_base=float(meta.get("rope.freq_base", 1_000_000.0)),
        layer_kinds=tuple("sliding" if own else "full" for own in sliding),
        window=SlidingWindow(int(meta["attention.sliding_window"]), float(meta.get("rope.freq_base_swa", 10_000.0))),
    )


def _gpt_oss(meta: _Metadata) -> ModelConfig:
    layers, tensors = int(meta["block_count"]), meta.file.tensors
    count, chosen = int(meta["expert_count"]), int(meta["expert_used_count"])
    return _decoder(
        meta,
        ffn_size=0,
        mlp_bias="blk.0.ffn_gate_exps.bias" in tensors,
        layer_kinds=tuple("full" if index % 2 else "sliding" for index in range(layers)),
        window=SlidingWindow(int(meta["attention.sliding_window"])),
        experts=Experts(count, chosen, int(meta["expert_feed_forward_length"])),
    )


GEMMA3_27B_LAYERS = 62
"""The one size whose scores are not scaled by the width of a head, which its files do not say."""
READERS = {
    "llama": _llama,
    "qwen2": _decoder,
    "qwen3": _decoder,
    "qwen3_moe": _qwen3_moe,
    "gemma3": _gemma3,
    "gpt_oss": _gpt_oss,
}
"""By family."""

"""Models small enough to sample thousands of tokens from in seconds: random weights of a configuration."""

from __future__ import annotations

from typing import Any

import torch

from engine.catalog.hf_config import config_from_hf
from engine.models import CausalLM, model_class

COMMON: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "intermediate_size": 70,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "eos_token_id": 258,
    "hidden_act": "silu",
}
"""Sizes that no vector divides, so that what is left behind the last whole one matters."""
KINDS: dict[str, dict[str, Any]] = {
    "tiny-dense": {"model_type": "llama"},
    "tiny-moe": {
        "model_type": "qwen3_moe",
        "num_experts": 7,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 22,
        "norm_topk_prob": True,
    },
    "tiny-hybrid": {
        "model_type": "qwen3_next",
        "full_attention_interval": 2,
        "partial_rotary_factor": 0.5,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 12,
        "linear_value_head_dim": 18,
        "linear_conv_kernel_dim": 4,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 22,
        "shared_expert_intermediate_size": 26,
    },
    "tiny-windows": {
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 20,
        "sliding_window": 19,
        "sliding_window_pattern": 2,
    },
    "tiny-sinks": {
        "model_type": "gpt_oss",
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "sliding_window": 21,
    },
}
"""Fields of a config.json, by name of the model, beside ``COMMON``."""
KEPT = ("frequencies", "local_frequencies")
"""Buffers that follow from the configuration."""


def tiny_model(kind: str, dtype: torch.dtype, seed: int = 0) -> CausalLM:
    """One of ``KINDS`` with random weights, on the CPU."""
    config = config_from_hf({**COMMON, **KINDS[kind]})
    model = model_class(config)(config, dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name in KEPT:
            continue
        values = torch.rand(buffer.shape, generator=generator) + 0.5
        if buffer.dim() > 1:
            gain = 1.0 if name == "embedding" else 2.0 * buffer.shape[-1] ** -0.5
            values = torch.randn(buffer.shape, generator=generator) * gain
        buffer.copy_(values)
    return model

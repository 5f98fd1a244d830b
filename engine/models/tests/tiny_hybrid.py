"""Random models of the hybrid families, as transformers saves them, small enough for a test."""

from __future__ import annotations

from pathlib import Path

import torch

SIZES = {
    "vocab_size": 259,
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
    "eos_token_id": 256,
}
EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
HYBRIDS = {
    "qwen3_5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", {"intermediate_size": 64}),
    "qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM", EXPERTS),
}
"""By kind: the configuration's class, the model's, and what it has besides ``SIZES``."""


def save_hybrid(folder: Path | str, kind: str) -> Path:
    """Save one of ``HYBRIDS`` with random norms, so that a wrong one shows."""
    import transformers

    configuration, architecture, more = HYBRIDS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, configuration)(**{**SIZES, **more})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("dt_bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return Path(folder)

"""The class that computes each family; the families themselves are listed in ``engine.catalog.FAMILIES``."""

from __future__ import annotations

from engine.catalog import ModelConfig
from engine.models.causal_lm import CausalLM
from engine.models.llama import Llama
from engine.models.qwen2 import Qwen2

MODELS: dict[str, type[CausalLM]] = {
    "llama": Llama,
    "qwen2": Qwen2,
}


def model_class(config: ModelConfig) -> type[CausalLM]:
    """The class for a configuration."""
    return MODELS[config.family]

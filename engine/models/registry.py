"""The class that computes each family; the families themselves are listed in ``engine.catalog.FAMILIES``."""

from __future__ import annotations

from engine.catalog import ModelConfig
from engine.models.causal_lm import CausalLM
from engine.models.gemma3 import Gemma3
from engine.models.gpt_oss import GptOss
from engine.models.llama import Llama
from engine.models.qwen2 import Qwen2
from engine.models.qwen3 import Qwen3
from engine.models.qwen3_moe import Qwen3Moe
from engine.models.qwen3_next import Qwen3Next

MODELS: dict[str, type[CausalLM]] = {
    "llama": Llama,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "qwen3_moe": Qwen3Moe,
    "gemma3": Gemma3,
    "gpt_oss": GptOss,
    "qwen3_next": Qwen3Next,
}


def model_class(config: ModelConfig) -> type[CausalLM]:
    """The class for a configuration."""
    return MODELS[config.family]

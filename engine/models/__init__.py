"""Models as plain tensors and functional operators: loading, running, and applying adapters."""

from engine.models.adapter_files import load_adapter, save_adapter
from engine.models.adapters import Adapter, Adapters, MixedAdapters, SingleAdapter, new_adapter
from engine.models.attention import Attention, PackedCausalAttention, Recurrent, delta_shape
from engine.models.causal_lm import CausalLM
from engine.models.dtype import pick_device, pick_dtype, pick_numerics
from engine.models.loading import load_body, load_model
from engine.models.mixture import is_grouped
from engine.models.packed import PackedModel, load_for_inference, load_for_training
from engine.models.registry import model_class

__all__ = [
    "Adapter",
    "Adapters",
    "Attention",
    "CausalLM",
    "MixedAdapters",
    "PackedCausalAttention",
    "PackedModel",
    "Recurrent",
    "SingleAdapter",
    "delta_shape",
    "is_grouped",
    "load_adapter",
    "load_body",
    "load_for_inference",
    "load_for_training",
    "load_model",
    "model_class",
    "new_adapter",
    "pick_device",
    "pick_dtype",
    "pick_numerics",
    "save_adapter",
]

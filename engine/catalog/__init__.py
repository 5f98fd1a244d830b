"""Names, configurations, digests and whereabouts of models and adapters; pulling them. Imports no torch."""

from engine.catalog.adapters import AdapterInfo, read_adapter_info
from engine.catalog.config import (
    FAMILIES,
    TARGETS,
    Experts,
    Family,
    LayerKind,
    ModelConfig,
    Recurrence,
    RopeScaling,
    SlidingWindow,
    unsupported_model,
)
from engine.catalog.digests import digest_file, digest_model, digest_tree
from engine.catalog.gguf_file import GgufFile, GgufTensor
from engine.catalog.model_files import ModelFiles, find_model_files
from engine.catalog.reading import OpenModel, open_model, read_config
from engine.catalog.starters import STARTERS, Starter

__all__ = [
    "FAMILIES",
    "STARTERS",
    "TARGETS",
    "AdapterInfo",
    "Experts",
    "Family",
    "GgufFile",
    "GgufTensor",
    "LayerKind",
    "ModelConfig",
    "ModelFiles",
    "OpenModel",
    "Recurrence",
    "RopeScaling",
    "SlidingWindow",
    "Starter",
    "digest_file",
    "digest_model",
    "digest_tree",
    "find_model_files",
    "open_model",
    "read_adapter_info",
    "read_config",
    "unsupported_model",
]

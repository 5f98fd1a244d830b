"""Names, configurations, digests and whereabouts of models and adapters; pulling them. Imports no torch."""

from engine.catalog.adapters import AdapterInfo, read_adapter_info
from engine.catalog.config import TARGETS, ModelConfig, RopeScaling, read_config
from engine.catalog.digests import digest_file, digest_model, digest_tree
from engine.catalog.gguf_file import GgufFile, GgufTensor
from engine.catalog.model_files import ModelFiles, find_model_files
from engine.catalog.starters import STARTERS, Starter

__all__ = [
    "STARTERS",
    "TARGETS",
    "AdapterInfo",
    "GgufFile",
    "GgufTensor",
    "ModelConfig",
    "ModelFiles",
    "RopeScaling",
    "Starter",
    "digest_file",
    "digest_model",
    "digest_tree",
    "find_model_files",
    "read_adapter_info",
    "read_config",
]

"""Continuous-batching inference over paged keys and values: `from engine.inference import Engine`.

The public names load lazily, so that the torch-free modules (scheduler, pages, prefix) stay torch-free to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.inference.config import EngineConfig
    from engine.inference.embedding import EmbeddingEngine, Embeddings
    from engine.inference.embedding_loop import EmbeddingLoop
    from engine.inference.engine import Engine
    from engine.inference.loop import EngineLoop
    from engine.inference.request import Completion, Output, Request, SamplingParams, TokenLogprob, Usage

_HOMES = {
    "Completion": "request",
    "EmbeddingEngine": "embedding",
    "EmbeddingLoop": "embedding_loop",
    "Embeddings": "embedding",
    "Engine": "engine",
    "EngineConfig": "config",
    "EngineLoop": "loop",
    "Output": "request",
    "Request": "request",
    "SamplingParams": "request",
    "TokenLogprob": "request",
    "Usage": "request",
}

__all__ = [
    "Completion",
    "EmbeddingEngine",
    "EmbeddingLoop",
    "Embeddings",
    "Engine",
    "EngineConfig",
    "EngineLoop",
    "Output",
    "Request",
    "SamplingParams",
    "TokenLogprob",
    "Usage",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

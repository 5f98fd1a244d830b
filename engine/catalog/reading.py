"""The architecture of whatever model files are at a path."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.catalog.config import ModelConfig, Recurrence, unsupported_model
from engine.catalog.gguf_config import config_from_gguf
from engine.catalog.gguf_file import GgufFile
from engine.catalog.hf_config import config_from_hf, token_ids
from engine.catalog.model_files import ModelFiles, find_model_files
from engine.catalog.quantisation import Quantisation, quantisation_of

MAX_DIMENSION = 1 << 24


@dataclass(frozen=True)
class OpenModel:
    """A model whose files were looked at once; its weights are still where they are.

    Attributes:
        config: its architecture.
        files: where it is.
        gguf: the header of the GGUF file, if it is one.
        quantisation: how safetensors are quantised, if they are.
    """

    config: ModelConfig
    files: ModelFiles
    gguf: GgufFile | None = None
    quantisation: Quantisation | None = None


def open_model(path: Path) -> OpenModel:
    """The model at ``path``: a Hugging Face folder, a folder with one GGUF file, or that file.

    Raises:
        FwError: ``not_found`` if nothing is there, ``model_unsupported`` if fw cannot run what is there.
    """
    files = find_model_files(path)
    if files.gguf is not None:
        gguf = GgufFile.open(files.gguf)
        return OpenModel(_checked(lambda: config_from_gguf(gguf)), files, gguf)
    config = read_folder(files.root)
    return OpenModel(config, files, quantisation=quantisation_of(json.loads((files.root / "config.json").read_bytes())))


def read_config(path: Path) -> ModelConfig:
    """The architecture of the model at ``path``; path and errors as for ``open_model``."""
    return open_model(path).config


def read_folder(folder: Path) -> ModelConfig:
    """The architecture that a Hugging Face folder's config.json describes; its weights may be missing.

    Raises:
        FwError: ``model_unsupported`` if fw cannot run it.
    """
    return _checked(lambda: _from_folder(folder))


def _from_folder(folder: Path) -> ModelConfig:
    fields = json.loads((folder / "config.json").read_bytes())
    generation = folder / "generation_config.json"
    if generation.is_file():
        eos = json.loads(generation.read_bytes()).get("eos_token_id")
        if eos is not None:
            fields["eos_token_id"] = token_ids(fields.get("eos_token_id")) + token_ids(eos)
    return config_from_hf(fields)


def _checked(read: Callable[[], ModelConfig]) -> ModelConfig:
    """What ``read`` reads, with sizes that make sense."""
    try:
        config = read()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unsupported_model(f"Its configuration cannot be read: {type(error).__name__}: {error}") from error
    sizes = [config.vocab_size, config.hidden_size, config.layers, config.heads, config.kv_heads]
    sizes += [config.head_dim, config.max_context]
    sizes += [config.experts.count, config.experts.ffn_size] if config.experts else [config.ffn_size]
    sizes += [config.window.tokens] if config.window else []
    if min(sizes) < 1 or max(sizes) > MAX_DIMENSION:
        raise unsupported_model(f"Its sizes are out of range: {sizes}")
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise unsupported_model(
            f"{config.heads} heads, {config.kv_heads} key-value heads of {config.head_dim} do not fit"
        )
    if config.recurrence:
        _check_recurrence(config.recurrence)
    if config.experts and not 1 <= config.experts.chosen <= config.experts.count:
        raise unsupported_model(f"Each token uses {config.experts.chosen} of {config.experts.count} experts")
    if config.layer_kinds and len(config.layer_kinds) != config.layers:
        raise unsupported_model(f"It names the kinds of {len(config.layer_kinds)} of its {config.layers} layers")
    return config


def _check_recurrence(recurrence: Recurrence) -> None:
    sizes = [recurrence.key_heads, recurrence.value_heads, recurrence.key_dim, recurrence.value_dim, recurrence.taps]
    if min(sizes) < 1 or max(sizes) > MAX_DIMENSION or recurrence.taps < 2:
        raise unsupported_model(f"The sizes of its recurrent layers are out of range: {sizes}")
    if recurrence.value_heads % recurrence.key_heads:
        raise unsupported_model(f"{recurrence.value_heads} value heads do not share {recurrence.key_heads} key heads")

"""Loading a model: its tensors go one by one into the frozen buffers, so that no second copy of the model exists."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from engine.catalog import GgufFile, find_model_files, read_config
from engine.models.llama import CausalLM, Layer
from engine.models.weights import GgufWeights, SafetensorsWeights, Weights, damaged, layer_parts


def load_model(path: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> CausalLM:
    """The model in a Hugging Face folder or a GGUF file, ready to run.

    Args:
        path: a folder with safetensors or one GGUF file, or that file.
        dtype: of weights and activations; quantised weights are dequantised to it.
        device: where to put it.

    Raises:
        FwError: ``not_found`` or ``model_unsupported``, as ``read_config``, and if a tensor is missing or misshapen.
    """
    path = Path(path)
    config, files = read_config(path), find_model_files(path)
    model = CausalLM(config, dtype, device)
    weights: Weights
    if files.gguf:
        weights = GgufWeights(GgufFile.open(files.gguf), config)
        if config.rope_scaling and config.rope_scaling.kind == "stored":
            divisors = weights.stored("rope_freqs.weight")
            _check("rope_freqs.weight", divisors, tuple(model.frequencies.shape))
            model.frequencies /= divisors.to(model.device)
    else:
        weights = SafetensorsWeights(files.weights)
    with torch.no_grad():
        _fill(model, weights)
    return model.eval()


def _fill(model: CausalLM, weights: Weights) -> None:
    _copy(model.embedding, weights, "model.embed_tokens.weight")
    _copy(model.final_norm, weights, "model.norm.weight")
    if not model.config.tie_embeddings:
        _copy(model.head, weights, "lm_head.weight")
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        for buffer, parts in layer_parts(index):
            _stack(getattr(layer, buffer), weights, [f"{part}.weight" for part in parts])
            bias = getattr(layer, f"{buffer}_bias", None)
            if bias is not None:
                _stack(bias, weights, [f"{part}.bias" for part in parts])


def _stack(buffer: Tensor, weights: Weights, names: list[str]) -> None:
    """Fill ``buffer`` with the tensors of ``names``, one below the other."""
    start = 0
    for name in names:
        tensor = weights.get(name)
        stop = start + tensor.shape[0]
        _check(name, tensor, (tensor.shape[0], *buffer.shape[1:]))
        if stop > buffer.shape[0]:
            raise damaged(f"{name} is {tuple(tensor.shape)}, too large")
        buffer[start:stop].copy_(tensor)
        start = stop
    if start != buffer.shape[0]:
        raise damaged(f"{', '.join(names)} have {start} rows together, {buffer.shape[0]} are needed")


def _copy(buffer: Tensor, weights: Weights, name: str) -> None:
    tensor = weights.get(name)
    _check(name, tensor, tuple(buffer.shape))
    buffer.copy_(tensor)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise damaged(f"{name} is {tuple(tensor.shape)}, its configuration needs {shape}")

"""Loading a model: its tensors go one by one into the frozen buffers, so that no second copy of the model exists."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from engine.catalog import OpenModel, open_model
from engine.models.causal_lm import CausalLM
from engine.models.layer import Layer, Slot
from engine.models.registry import model_class
from engine.models.weights import Weights, damaged, open_weights


def load_model(path: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> CausalLM:
    """The model in a Hugging Face folder or a GGUF file, ready to run.

    Args:
        path: a folder with safetensors or one GGUF file, or that file.
        dtype: of weights and activations; quantised weights are dequantised to it.
        device: where to put it.

    Raises:
        FwError: ``not_found`` or ``model_unsupported``, as ``read_config``, and if a tensor is missing or misshapen.
    """
    return load_opened(open_model(Path(path)), dtype=dtype, device=device)


def load_opened(opened: OpenModel, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> CausalLM:
    """As ``load_model``, of a model that was opened before."""
    model = model_class(opened.config)(opened.config, dtype, device)
    weights = open_weights(opened)
    divisors = weights.divisors()
    if divisors is not None:
        _check("the rotary divisors", divisors, tuple(model.frequencies.shape))
        model.frequencies /= divisors.to(model.device)
    with torch.no_grad():
        _fill(model, weights)
    return model.eval()


def _fill(model: CausalLM, weights: Weights) -> None:
    _copy(model.embedding, weights, "model.embed_tokens.weight")
    _stack(model.final_norm, weights, model.final_slot(model.config), "")
    if not model.config.tie_embeddings:
        _copy(model.head, weights, "lm_head.weight")
    for layer in model.layers:
        assert isinstance(layer, Layer)
        prefix = f"model.layers.{layer.index}."
        for name, slot in model.slots(model.config, layer.index).items():
            _stack(getattr(layer, name), weights, slot, prefix)


def _stack(buffer: Tensor, weights: Weights, slot: Slot, prefix: str) -> None:
    """Fill ``buffer`` with the slot's tensors, one below the other; experts [E, R, C] are E * R rows."""
    buffer, start = _rows(buffer), 0
    for source in slot.sources:
        tensor = weights.get(prefix + source)
        if slot.turned is not None:
            tensor = slot.turned(tensor)
        tensor = _rows(tensor)
        stop = start + tensor.shape[0]
        _check(prefix + source, tensor, (tensor.shape[0], *buffer.shape[1:]))
        if stop > buffer.shape[0]:
            raise damaged(f"{prefix + source} is {tuple(tensor.shape)}, too large")
        buffer[start:stop].copy_(tensor)
        start = stop
    if start != buffer.shape[0]:
        names = ", ".join(prefix + source for source in slot.sources)
        raise damaged(f"{names} have {start} rows together, {buffer.shape[0]} are needed")


def _rows(tensor: Tensor) -> Tensor:
    return tensor.flatten(0, -2) if tensor.dim() > 2 else tensor


def _copy(buffer: Tensor, weights: Weights, name: str) -> None:
    tensor = weights.get(name)
    _check(name, tensor, tuple(buffer.shape))
    buffer.copy_(tensor)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise damaged(f"{name} is {tuple(tensor.shape)}, its configuration needs {shape}")

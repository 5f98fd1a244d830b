"""Loading a model: its tensors go one by one into the frozen buffers, so that no second copy of the model exists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.catalog import OpenModel, open_model
from engine.models.causal_lm import CausalLM
from engine.models.holding import COLUMNS, Holding
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


def load_body(path: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> CausalLM:
    """Load a model for its hidden states alone: an output head of its own is not looked for."""
    opened = open_model(Path(path))
    config = replace(opened.config, tie_embeddings=True)
    return load_opened(replace(opened, config=config), dtype=dtype, device=device)


def load_opened(
    opened: OpenModel, *, dtype: torch.dtype, device: torch.device | str = "cpu", holding: Holding | None = None
) -> CausalLM:
    """Load a model that was opened before; ``holding`` keeps its matrices in few bits."""
    device = torch.device(device)
    model = model_class(opened.config)(opened.config, dtype, device if holding is None else "cpu")
    weights = open_weights(opened)
    divisors = weights.divisors()
    if divisors is not None:
        _check("the rotary divisors", divisors, tuple(model.frequencies.shape))
        model.frequencies /= divisors.to(model.device)
    with torch.no_grad():
        _fill(model, weights, holding)
    if device.type != model.device.type:
        model.to(device)
        model.device = device
        model.packed = {name: held.to(device) for name, held in model.packed.items()}
        for layer in model.decoders:
            layer.packed = {name: held.to(device) for name, held in layer.packed.items()}
    return model.eval()


def _fill(model: CausalLM, weights: Weights, holding: Holding | None) -> None:
    _fill_ends(model, weights, holding)
    _stack(model.final_norm, weights, model.final_slot(model.config), "")
    for layer in model.decoders:
        prefix = f"model.layers.{layer.index}."
        slots = model.slots(model.config, layer.index)
        held = {name: slot for name, slot in slots.items() if holding and holding.takes(name, slot)}
        for name, slot in slots.items():
            if name not in held:
                _stack(getattr(layer, name), weights, slot, prefix)
        for name, slot in held.items():
            assert holding is not None
            _hold(layer, name, slot, weights, prefix, holding)


def _fill_ends(model: CausalLM, weights: Weights, holding: Holding | None) -> None:
    """The embedding and the head."""
    ends = {"embedding": "model.embed_tokens.weight"}
    if not model.config.tie_embeddings:
        ends["head"] = "lm_head.weight"
    for name, source in ends.items():
        slot = Slot((model.config.vocab_size, model.config.hidden_size), (source,))
        stored = holding.stored(weights, [source], slot.shape[1]) if holding and not holding.trained else None
        if holding is None or holding.trained or slot.shape[1] % COLUMNS or (holding.bits is None and stored is None):
            _stack(getattr(model, name), weights, slot, "")
            continue
        full = torch.empty(slot.shape)
        _stack(full, weights, slot, "")
        model.packed[name] = holding.product(name, full, None, stored)
        setattr(model, name, full.new_empty(0, slot.shape[1]))
    if model.config.tie_embeddings and "embedding" in model.packed:
        model.packed["head"], model.head = model.packed["embedding"], model.embedding


def _hold(layer: Layer, name: str, slot: Slot, weights: Weights, prefix: str, holding: Holding) -> None:
    """Fill a projection's slot in few bits, one tensor of floats at a time; its bias is there already."""
    stored = None
    if slot.turned is None and len(slot.shape) == 2:
        stored = holding.stored(weights, [prefix + source for source in slot.sources], slot.shape[1])
    buffer: Tensor = getattr(layer, name)
    if stored is None and holding.bits is None:
        return _stack(buffer, weights, slot, prefix)
    full = torch.empty(slot.shape)
    _stack(full, weights, slot, prefix)
    bias = getattr(layer, f"{name}_bias", None)
    if full.dim() == 2:
        layer.packed[name, None] = holding.product(name, full, bias, stored)
    else:
        for expert, held in enumerate(holding.experts(name, full, bias)):
            layer.packed[name, expert] = held
    setattr(layer, name, buffer.new_empty(len(buffer), 0) if full.dim() > 2 else buffer.new_empty(0))
    return None


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

"""The BERT family: an encoder over the flat tokens of many texts, each attending to all of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.catalog import find_model_files
from engine.catalog.embedding_config import EncoderConfig, encoder_from_hf
from engine.models.weights import SafetensorsWeights, Weights, damaged

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda inputs: functional.gelu(inputs, approximate="tanh"),
    "relu": functional.relu,
}
LAYER_PARTS = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
    "output_norm": ("output.LayerNorm",),
}
"""Each pair of buffers (weight and bias) of a layer, with the tensors that are stacked in it."""


class EncoderLayer(nn.Module):
    """One layer's frozen weights: for each name of ``LAYER_PARTS`` a buffer, and its bias under ``NAME_bias``."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        hidden, ffn = config.hidden_size, config.ffn_size
        shapes: dict[str, tuple[int, ...]] = {
            "qkv": (3 * hidden, hidden),
            "output": (hidden, hidden),
            "attention_norm": (hidden,),
            "up": (ffn, hidden),
            "down": (hidden, ffn),
            "output_norm": (hidden,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device=device))
            self.register_buffer(f"{name}_bias", torch.empty(shape[0], dtype=dtype, device=device))

    def project(self, name: str, inputs: Tensor) -> Tensor:
        """inputs [T, in] -> [T, out]."""
        return functional.linear(inputs, getattr(self, name), getattr(self, f"{name}_bias"))

    def normalise(self, name: str, inputs: Tensor, eps: float) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        return functional.layer_norm(inputs, inputs.shape[-1:], getattr(self, name), getattr(self, f"{name}_bias"), eps)


class Encoder(nn.Module):
    """A BERT encoder whose weights are frozen buffers.

    Attributes:
        config: its architecture.
        dtype: of weights and activations.
        device: where it is.
    """

    tokens: Tensor
    positions: Tensor
    token_type: Tensor
    norm: Tensor
    norm_bias: Tensor

    def __init__(self, config: EncoderConfig, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config, self.dtype, self.device = config, dtype, torch.device(device)
        hidden = config.hidden_size
        shapes = {"tokens": (config.vocab_size, hidden), "positions": (config.positions, hidden)}
        for name, shape in {**shapes, "token_type": (hidden,), "norm": (hidden,), "norm_bias": (hidden,)}.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device=self.device))
        self.layers = nn.ModuleList(EncoderLayer(config, dtype, self.device) for _ in range(config.layers))

    def forward(self, token_ids: Tensor, positions: Tensor, segment_lengths: Sequence[int]) -> Tensor:
        """States of the last layer.

        Args:
            token_ids: [T] i64, the tokens of all texts, one after another; equal lengths beside each other are fastest.
            positions: [T] i64, each token's position in its text.
            segment_lengths: tokens of each text; they sum to T.

        Returns:
            [T, hidden] in the model's dtype.
        """
        eps = self.config.norm_eps
        summed = functional.embedding(token_ids, self.tokens) + self.positions[positions] + self.token_type
        hidden = functional.layer_norm(summed, summed.shape[-1:], self.norm, self.norm_bias, eps)
        active = ACTIVATIONS[self.config.activation]
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            mixed = layer.project("output", self._attend(layer.project("qkv", hidden), segment_lengths))
            hidden = layer.normalise("attention_norm", hidden + mixed, eps)
            expanded = active(layer.project("up", hidden))
            hidden = layer.normalise("output_norm", hidden + layer.project("down", expanded), eps)
        return hidden

    def _attend(self, qkv: Tensor, segment_lengths: Sequence[int]) -> Tensor:
        """[T, 3 hidden] -> [T, hidden]; texts of one length that follow each other are one product."""
        heads, width = self.config.heads, self.config.hidden_size // self.config.heads
        mixed = qkv.new_empty(len(qkv), heads * width)
        start = 0
        for length, count in _runs(segment_lengths):
            stop = start + length * count
            parts = qkv[start:stop].view(count, length, 3, heads, width).permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
            mixed[start:stop] = attended.transpose(1, 2).reshape(stop - start, heads * width)
            start = stop
        return mixed


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(length, how many of it follow each other)."""
    for length, group in groupby(lengths):
        yield length, sum(1 for _ in group)


def load_encoder(path: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Encoder:
    """The encoder in a Hugging Face folder.

    Raises:
        FwError: ``not_found`` or ``model_unsupported``.
    """
    import json

    files = find_model_files(path)
    config = encoder_from_hf(json.loads((files.root / "config.json").read_bytes()))
    model, weights = Encoder(config, dtype, device), SafetensorsWeights(files.weights)
    prefix = "bert." if weights.has("bert.embeddings.word_embeddings.weight") else ""
    embeddings = f"{prefix}embeddings."
    with torch.no_grad():
        _fill(model.tokens, weights, [f"{embeddings}word_embeddings.weight"])
        _fill(model.positions, weights, [f"{embeddings}position_embeddings.weight"])
        model.token_type.copy_(weights.get(f"{embeddings}token_type_embeddings.weight")[0])
        _fill(model.norm, weights, [f"{embeddings}LayerNorm.weight"])
        _fill(model.norm_bias, weights, [f"{embeddings}LayerNorm.bias"])
        for index, layer in enumerate(model.layers):
            for name, parts in LAYER_PARTS.items():
                stored = [f"{prefix}encoder.layer.{index}.{part}" for part in parts]
                _fill(getattr(layer, name), weights, [f"{part}.weight" for part in stored])
                _fill(getattr(layer, f"{name}_bias"), weights, [f"{part}.bias" for part in stored])
    return model.eval()


def _fill(buffer: Tensor, weights: Weights, names: Sequence[str]) -> None:
    """Fill ``buffer`` with the tensors of ``names``, one below the other."""
    found = torch.cat([weights.get(name) for name in names])
    if found.shape != buffer.shape:
        raise damaged(f"{names[0]} is {tuple(found.shape)}, its configuration needs {tuple(buffer.shape)}")
    buffer.copy_(found)

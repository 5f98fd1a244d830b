"""Loading a model whose weights stay in 4 or 8 bits, for the compiled decoder step on the CPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.catalog import ModelConfig, OpenModel, open_model
from engine.models.causal_lm import CausalLM
from engine.models.dtype import pick_dtype, pick_numerics
from engine.models.holding import COLUMNS, Holding, packable
from engine.models.layer import Slots
from engine.models.loading import load_opened
from engine.models.registry import model_class
from engine.models.rotary import rope_frequencies
from engine.models.weights import Weights, damaged, open_weights
from fw_sdk.types import FwError
from kernels.block_matmul import GGUF_FORMATS, Arena, Matrix
from kernels.decoder import DecoderWeights, LayerWeights, Shape, unsupported
from kernels.native import Library, library, outruns_bf16, status

Floats = NDArray[np.float32]
INT15 = {
    "fast": frozenset({"qkv", "embedding", "head"}),
    "exact": frozenset({"qkv", "output", "gate_up", "down", "embedding", "head"}),
}
"""By numerics: what is multiplied with activations of 15 bits instead of 8. With all of them the logits are those of
float32 to three digits; queries and logits alone take half of the error away and hardly any time."""
PACKED_FAMILIES = ("llama", "qwen2", "qwen3")
PROJECTIONS = ("qkv", "output", "gate_up", "down")
BITS = {"stored": None, "int8": 8, "int4": 4}
BITS_ON_LOAD = ("int8", "int4")


@dataclass(frozen=True)
class PackedModel:
    """A model whose weights stay in 4 or 8 bits.

    Attributes:
        config: its architecture.
        format: how its weights are held: int8, int4, or the type of most tensors of its file.
        numerics: fast or exact.
        weights: packed.
        library: the compiled kernels that compute with them.
    """

    config: ModelConfig
    format: str
    numerics: str
    weights: DecoderWeights
    library: Library


def load_for_inference(path: Path, *, dtype: str, device: torch.device, numerics: str) -> CausalLM | PackedModel:
    """The model at ``path`` in the wanted format (see ``Engine.load``).

    Raises:
        FwError: as ``Engine.load``.
    """
    if numerics not in (*INT15, "auto"):
        raise FwError(
            "invalid_argument", f"Unknown numerics '{numerics}'.", hint="use auto, fast or exact", param="numerics"
        )
    opened = open_model(path)
    recurrent = opened.config.recurrence is not None
    if dtype in BITS or (dtype == "auto" and device.type == "cpu"):
        kernels = library() if device.type == "cpu" else None
        reason = why_not_packed(opened, BITS.get(dtype))
        if kernels is None and reason is None:
            reason = status() if device.type == "cpu" else "that needs a CPU, or a file in q4_0, q4_1 or q8_0"
        held = _format(opened) if dtype in ("auto", "stored") else dtype
        if reason is None and kernels is not None:
            chosen = "exact" if numerics == "auto" else numerics
            weights = load_packed(opened, kernels, BITS.get(dtype), INT15[chosen])
            return PackedModel(opened.config, held, chosen, weights, kernels)
        holding = Holding(BITS.get(dtype), kernels, fast=numerics == "fast")
        if opened.config.hidden_size % COLUMNS:
            reason = f"its hidden size {opened.config.hidden_size} is no multiple of {COLUMNS}"
        elif dtype in BITS_ON_LOAD or (_packable(opened, kernels) and (kernels or device.type != "cpu")):
            compute = torch.float32 if device.type == "cpu" else pick_dtype(device)
            pick_numerics(device, compute, numerics, recurrent=recurrent)  # refused before anything is read
            model = load_opened(opened, dtype=compute, device=device, holding=holding)
            model.format = held
            return model
        if dtype != "auto":
            raise _impossible(f"dtype '{dtype}'", reason)
    compute = pick_dtype(device, dtype)
    pick_numerics(device, compute, numerics, recurrent=recurrent)
    return load_opened(opened, dtype=compute, device=device)


def load_for_training(path: Path, *, dtype: torch.dtype, device: torch.device) -> CausalLM:
    """The model at ``path`` to train an adapter on; products run on packed weights where that is possible and faster.

    Forward they are the file's own 4 or 8 bits, backward their transpose in 8, with activations and gradients in 15:
    closer to float32 than products in bfloat16 are.

    Raises:
        FwError: ``not_found`` or ``model_unsupported``.
    """
    opened = open_model(path)
    if opened.config.recurrence:
        raise FwError(
            "model_unsupported",
            "Models with recurrent layers cannot be trained here.",
            not_done="No model was loaded.",
            hint="they can be served, with adapters made elsewhere",
            param="path",
        )
    kernels = library() if device.type == "cpu" and dtype is torch.bfloat16 and outruns_bf16() else None
    holding = Holding(None, kernels, trained=True) if kernels and _packable(opened, kernels) else None
    return load_opened(opened, dtype=dtype, device=device, holding=holding)


def _packable(opened: OpenModel, kernels: Library | None) -> bool:
    """Whether a GGUF file has matrices that are multiplied as they are."""
    tensors = opened.gguf.tensors.values() if opened.gguf else ()
    return any(len(item.shape) > 1 and packable({item.type}, kernels) for item in tensors)


def _impossible(asked: str, reason: str | None) -> FwError:
    return FwError(
        "failed_precondition",
        f"This model cannot be used with {asked} here: {reason}.",
        not_done="No model was loaded.",
        hint="use dtype auto and numerics auto; fw doctor says what is missing for compiled kernels",
        param="dtype",
    )


def _format(opened: OpenModel) -> str:
    """The type of most matrices of a GGUF file; nothing to speak of for other files."""
    from gguf.constants import GGMLQuantizationType

    tensors = opened.gguf.tensors.values() if opened.gguf else ()
    kinds = Counter(item.type for item in tensors if len(item.shape) > 1)
    return GGMLQuantizationType(kinds.most_common(1)[0][0]).name.lower() if kinds else ""


def shape_of(config: ModelConfig) -> Shape:
    """The numbers that the compiled step needs; cosines that are stretched count twice in a score, once per side."""
    scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
    magnitude = config.rope_scaling.magnitude if config.rope_scaling else 1.0
    return Shape(
        layers=config.layers,
        hidden=config.hidden_size,
        heads=config.heads,
        kv_heads=config.kv_heads,
        width=config.head_dim,
        ffn=config.ffn_size,
        vocabulary=config.vocab_size,
        eps=config.norm_eps,
        scale=scale * magnitude**2,
    )


def why_not_packed(opened: OpenModel, bits: int | None) -> str | None:
    """Why a model cannot run in the compiled step, its weights in 4 or 8 bits; None if it can.

    Args:
        opened: the model.
        bits: to which they are quantised on load, 4 or 8; None takes them as they are stored.
    """
    config = opened.config
    if config.family not in PACKED_FAMILIES or config.window is not None:
        return f"models of the kind '{config.family}'{' with sliding windows' if config.window else ''} are not packed"
    reason = unsupported(shape_of(config))
    if reason is not None or bits is not None:
        return reason
    if opened.quantisation is not None:
        return f"its {opened.quantisation.kind} weights are turned into floats"
    if opened.gguf is None:
        return "its weights are stored in full precision"
    other = [
        item.name for item in opened.gguf.tensors.values() if len(item.shape) > 1 and item.type not in GGUF_FORMATS
    ]
    return f"its tensor {other[0]} is not stored in 4 to 8 bits" if other else None


def load_packed(opened: OpenModel, library: Library, bits: int | None, int15: frozenset[str]) -> DecoderWeights:
    """The model, packed; arguments as for ``why_not_packed``, which must have found nothing.

    Args:
        opened: the model.
        library: compiled kernels.
        bits: as for ``why_not_packed``.
        int15: names of the matrices that are multiplied with activations of 15 bits.

    Raises:
        FwError: ``model_unsupported`` if a tensor is missing or misshapen.
    """
    config, weights = opened.config, open_weights(opened)
    frequencies = rope_frequencies(config.head_dim, config.rope_base, config.rope_scaling)
    divisors = weights.divisors()
    if divisors is not None:
        frequencies = frequencies / divisors
    packer = _Packer(weights, config, library, bits or 8, int15)
    embedding = packer.matrix("embedding", ("model.embed_tokens.weight",), config.vocab_size, config.hidden_size)
    tied = config.tie_embeddings
    head = embedding if tied else packer.matrix("head", ("lm_head.weight",), config.vocab_size, config.hidden_size)
    return DecoderWeights(
        shape_of(config),
        np.ascontiguousarray(frequencies.float().numpy()),
        embedding,
        head,
        packer.vector("model.norm.weight", (config.hidden_size,)),
        tuple(packer.layer(index) for index in range(config.layers)),
    )


class _Packer:
    """Packs tensors by name, each checked against the configuration."""

    def __init__(
        self, weights: Weights, config: ModelConfig, library: Library, bits: int, int15: frozenset[str]
    ) -> None:
        self._weights, self._config, self._library = weights, config, library
        self._bits, self._int15 = bits, int15
        self.arena = Arena()

    def layer(self, index: int) -> LayerWeights:
        slots = model_class(self._config).slots(self._config, index)
        prefix = f"model.layers.{index}."

        def norm(name: str) -> Floats:
            return self.vector(prefix + slots[name].sources[0], slots[name].shape)

        qkv, output, gate_up, down = (self._projection(name, slots, prefix) for name in PROJECTIONS)
        query, key = (norm(name) if name in slots else None for name in ("query_norm", "key_norm"))
        return LayerWeights(norm("input_norm"), norm("post_norm"), qkv, output, gate_up, down, query, key)

    def _projection(self, name: str, slots: Slots, prefix: str) -> Matrix:
        rows, columns = slots[name].shape
        bias = slots.get(f"{name}_bias")
        biases = tuple(prefix + source for source in bias.sources) if bias else ()
        return self.matrix(name, tuple(prefix + source for source in slots[name].sources), rows, columns, biases)

    def vector(self, name: str, shape: tuple[int, ...]) -> Floats:
        found = self._weights.get(name).float().numpy()
        if found.shape != shape:
            raise damaged(f"{name} is {found.shape}, its configuration needs {shape}")
        return np.ascontiguousarray(found)

    def matrix(
        self, buffer: str, names: tuple[str, ...], rows: int, columns: int, biases: tuple[str, ...] = ()
    ) -> Matrix:
        parts = [self._weights.rows(name, columns) for name in names]
        found = sum(len(part.addresses()) for part in parts)
        if found != rows:
            raise damaged(f"{', '.join(names)} have {found} rows together, {rows} are needed")
        bias = np.concatenate([self._weights.get(name).float().numpy() for name in biases]) if biases else None
        return Matrix.pack(
            self._library, parts, columns, bits=self._bits, bias=bias, int15=buffer in self._int15, arena=self.arena
        )

"""The C structures of a decoder step, and one object that owns what they point to."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.block_matmul.matrix import PANEL, CMatrix, CQuantized, Floats, Matrix, Quantized, aligned
from kernels.native import Library, Team

PAGE = 16
VECTORS = 32
MAX_HEAD = 256
PORTION = 128
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SLICE = np.dtype([(name, np.int64) for name in ("count", "context", "ids", "pages", "updates", "rows")])
"""``slice`` of cpu.c: what one sequence computes in a step. ids, pages and updates are addresses; the logits are wanted
after the last ``rows`` tokens."""

i64, pointer = ctypes.c_int64, ctypes.c_void_p


class CLayer(ctypes.Structure):
    """``layer`` of cpu.c."""

    _fields_ = (
        ("input_norm", pointer),
        ("post_norm", pointer),
        ("query_norm", pointer),
        ("key_norm", pointer),
        ("qkv", CMatrix),
        ("output", CMatrix),
        ("gate_up", CMatrix),
        ("down", CMatrix),
    )


class CModel(ctypes.Structure):
    """``model`` of cpu.c."""

    _fields_ = (
        *((name, i64) for name in ("layers", "hidden", "heads", "kv_heads", "width", "ffn", "vocabulary")),
        ("eps", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("frequencies", pointer),
        ("final_norm", pointer),
        ("layer", ctypes.POINTER(CLayer)),
        ("embedding", CMatrix),
        ("head", CMatrix),
    )


class CUpdate(ctypes.Structure):
    """``update`` of cpu.c."""

    _fields_ = (("down", pointer), ("up", pointer), ("rank", i64), ("scale", ctypes.c_float))


class CBatch(ctypes.Structure):
    """``batch`` of cpu.c."""

    _fields_ = (
        *((name, i64) for name in ("tokens", "spans", "segments", "wanted")),
        *((name, pointer) for name in ("ids", "positions", "slots", "logit_rows", "span", "segment")),
    )


class CWorkspace(ctypes.Structure):
    """``workspace`` of cpu.c."""

    _fields_ = (
        *((name, pointer) for name in ("hidden", "inputs", "wide", "mixed", "active", "turns", "low", "scores")),
        ("scores_per_thread", i64),
        ("max_rank", i64),
        ("quantized", CQuantized),
        ("batch", CBatch),
        ("logits", pointer),
        ("pages", pointer),
    )


@dataclass(frozen=True)
class Shape:
    """The numbers that a decoder of the Llama kind is made of; ``scale`` of the scores is ``width ** -0.5`` if None."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    width: int
    ffn: int
    vocabulary: int
    eps: float
    scale: float | None = None


def unsupported(shape: Shape) -> str | None:
    """Why the compiled step cannot compute this shape; None if it can."""
    for name, value, multiple in (
        ("hidden size", shape.hidden, 32),
        ("feed-forward size", shape.ffn, 32),
        ("head width", shape.width, PANEL),
        ("query size", shape.heads * shape.width, 32),
    ):
        if value % multiple:
            return f"its {name} {value} is not a multiple of {multiple}"
    if shape.width > MAX_HEAD:
        return f"its head width {shape.width} is above {MAX_HEAD}"
    if shape.heads // shape.kv_heads > VECTORS:
        return f"{shape.heads // shape.kv_heads} query heads share a key-value head, above {VECTORS}"
    return None


@dataclass(frozen=True)
class LayerWeights:
    """One layer: norms [hidden] float32, projections that share an input in one matrix.

    Attributes:
        query_norm: [width] float32, of each query head before it is turned; None if heads are not normed.
        key_norm: the same of each key head.
    """

    input_norm: Floats
    post_norm: Floats
    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix
    query_norm: Floats | None = None
    key_norm: Floats | None = None


@dataclass(frozen=True)
class DecoderWeights:
    """A whole model: frequencies [width / 2] in radians per position; head may be the embedding itself."""

    shape: Shape
    frequencies: Floats
    embedding: Matrix
    head: Matrix
    final_norm: Floats
    layers: tuple[LayerWeights, ...]

    @property
    def nbytes(self) -> int:
        """Memory of all matrices."""
        own = [self.embedding] if self.head is self.embedding else [self.embedding, self.head]
        parts = [getattr(layer, name) for layer in self.layers for name in ("qkv", "output", "gate_up", "down")]
        return sum(matrix.nbytes for matrix in (*own, *parts))


class Updates:
    """The low-rank updates of one adapter, packed: A as [columns, rank], B in panels of 16 rows, in halves.

    Args:
        layers: of the model.
        weights: (layer, target) -> (A [rank, in], B [out, rank]) float32.
        scale: factor on the update.

    Attributes:
        address: what a slice refers to.
        rank: of the packed matrices, a multiple of 16.
    """

    def __init__(self, layers: int, weights: Mapping[tuple[int, str], tuple[Floats, Floats]], scale: float) -> None:
        self.rank = max(-(-down.shape[0] // PANEL) * PANEL for down, _ in weights.values())
        self._table = (CUpdate * (layers * len(TARGETS)))()
        self._kept: list[npt.NDArray[np.float16]] = []
        for (layer, target), (down, up) in weights.items():
            rank, columns = down.shape
            turned = np.zeros((columns, self.rank), np.float16)
            turned[:, :rank] = down.T
            panels = np.zeros((-(-up.shape[0] // PANEL) * PANEL, self.rank), np.float16)
            panels[: up.shape[0], :rank] = up
            packed = np.ascontiguousarray(panels.reshape(-1, PANEL, self.rank).transpose(0, 2, 1))
            self._kept += [turned, packed]
            entry = self._table[layer * len(TARGETS) + TARGETS.index(target)]
            entry.down, entry.up = turned.ctypes.data, packed.ctypes.data
            entry.rank, entry.scale = self.rank, scale
        self.address = ctypes.addressof(self._table)
        self.nbytes = sum(item.nbytes for item in self._kept)


class Decoder:
    """The compiled step with its weights, its cache and its working memory.

    Args:
        library: compiled kernels.
        weights: kept alive here.
        page_count: pages of 16 tokens in the cache.
        max_tokens: rows of a step at most.
        max_rows: rows of a step whose logits are wanted at most.
        context: tokens of a sequence at most.
        threads: that compute a step.
    """

    def __init__(
        self,
        library: Library,
        weights: DecoderWeights,
        *,
        page_count: int,
        max_tokens: int,
        max_rows: int,
        context: int,
        threads: int,
    ) -> None:
        shape = weights.shape
        self._weights, self._threads = weights, threads
        self._team = Team(library, threads)
        self._step = library.function("decoder_step")
        self._step.restype = None
        self.logits = aligned(max_rows * shape.vocabulary, np.float32).reshape(max_rows, shape.vocabulary)
        self.pages = aligned(page_bytes(shape) * page_count // 2, np.float16).reshape(
            page_count, shape.layers, 2, shape.kv_heads, PAGE * shape.width
        )
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._model, self._layers = _model(weights)
        self._workspace = self._make_workspace(shape, max_tokens, context)
        self._low_rank = 0

    def _make_workspace(self, shape: Shape, tokens: int, context: int) -> CWorkspace:
        query, kv = shape.heads * shape.width, shape.kv_heads * shape.width
        padded = -(-context // PAGE) * PAGE
        self._quantized = Quantized(tokens, max(shape.hidden, query, shape.ffn))
        floats = {
            "hidden": tokens * shape.hidden,
            "inputs": tokens * shape.hidden,
            "wide": max(tokens * (query + 2 * kv), PORTION * 2 * shape.ffn),
            "mixed": tokens * query,
            "active": PORTION * shape.ffn,
            "turns": tokens * shape.width,
            "scores": self._threads * VECTORS * padded,
        }
        rows = {"ids": 1, "positions": 1, "slots": 1, "logit_rows": 1, "span": 4, "segment": 3}
        arrays: dict[str, npt.NDArray[Any]] = {
            **{name: aligned(size, np.float32) for name, size in floats.items()},
            **{name: aligned(tokens * size, np.int64) for name, size in rows.items()},
        }
        self._arrays, self._max_tokens = arrays, tokens
        at = {name: array.ctypes.data for name, array in arrays.items()}
        batch = CBatch(0, 0, 0, 0, *(at[name] for name in rows))
        buffers = (at[name] for name in ("hidden", "inputs", "wide", "mixed", "active", "turns"))
        return CWorkspace(
            *buffers,
            None,
            at["scores"],
            VECTORS * padded,
            0,
            self._quantized.c,
            batch,
            self.logits.ctypes.data,
            self.pages.ctypes.data,
        )

    def replace(self, weights: DecoderWeights) -> None:
        """Compute with these weights, of the same shape, from the next step on; the cache stays."""
        assert weights.shape == self._weights.shape, "weights of another shape"
        self._weights = weights
        self._model, self._layers = _model(weights)

    def make_room(self, rank: int) -> None:
        """Be ready for adapters of this rank."""
        if rank > self._low_rank:
            self._low_rank = rank
            self._arrays["low"] = aligned(self._max_tokens * 3 * rank, np.float32)
            self._workspace.low, self._workspace.max_rank = self._arrays["low"].ctypes.data, rank

    def step(self, slices: npt.NDArray[np.void]) -> Floats:
        """Compute the slices (of dtype ``SLICE``) and return the logits of their last ``rows`` tokens, in order.

        Returns:
            [wanted, vocabulary] float32, valid until the next step.
        """
        self._step(
            ctypes.byref(self._model),
            pointer(slices.ctypes.data),
            i64(len(slices)),
            ctypes.byref(self._workspace),
            self._team.address,
        )
        return self.logits[: self._workspace.batch.wanted]


def page_bytes(shape: Shape) -> int:
    """Bytes of one page of 16 tokens, over all layers."""
    return shape.layers * 2 * shape.kv_heads * PAGE * shape.width * 2


def _model(weights: DecoderWeights) -> tuple[CModel, ctypes.Array[CLayer]]:
    shape = weights.shape
    layers = (CLayer * shape.layers)(
        *(
            CLayer(
                layer.input_norm.ctypes.data,
                layer.post_norm.ctypes.data,
                *(None if norm is None else norm.ctypes.data for norm in (layer.query_norm, layer.key_norm)),
                *(matrix.c for matrix in (layer.qkv, layer.output, layer.gate_up, layer.down)),
            )
            for layer in weights.layers
        )
    )
    model = CModel(
        *(shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.width, shape.ffn, shape.vocabulary),
        shape.eps,
        shape.width**-0.5 if shape.scale is None else shape.scale,
        weights.frequencies.ctypes.data,
        weights.final_norm.ctypes.data,
        layers,
        weights.embedding.c,
        weights.head.c,
    )
    return model, layers

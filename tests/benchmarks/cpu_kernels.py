"""What each compiled kernel achieves beside what the machine can do: GB/s where memory is the limit, else GMAC/s.

The shapes are those of SmolLM2-135M. Ceilings are measured in the same process: numpy's copy for memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from kernels import native
from kernels.block_matmul import FLOAT, Arena, Matrix, Rows
from kernels.block_matmul.matrix import Quantized, multiply_into
from kernels.decoder import PAGE, SLICE, Decoder, DecoderWeights, LayerWeights, Shape, page_bytes
from kernels.native import Library, Team

HEADER = ["kernel", "shape", "µs", "GB/s", "GMAC/s"]
SHAPES = {"gate and up": (3072, 576), "down": (576, 1536), "logits": (49152, 576)}
TOKENS = (1, 32, 512)
ROUNDS = 15
SPREAD_BYTES = 64 << 20
"""Matrices of one kind are used in turn until this much was read: as in a step, they come from memory, not a cache."""
MODEL = Shape(layers=30, hidden=576, heads=9, kv_heads=3, width=64, ffn=1536, vocabulary=49152, eps=1e-5)
STEPS = {
    "whole step, 1 stream after 128 tokens": (1, 1, 128),
    "whole step, 1 stream after 4,096 tokens": (1, 1, 4096),
    "whole step, 32 streams after 192 tokens": (32, 1, 192),
    "whole step, 512 tokens of one prompt": (1, 512, 512),
}
"""Streams, new tokens of each, and tokens of each once they are computed."""


def measure(threads: int = 2) -> tuple[list[str], list[list[str]]]:
    """Header and rows for ``report.table``; empty rows where nothing can be compiled."""
    library = native.library()
    if library is None:
        return HEADER, []
    team = Team(library, threads)
    rows = [_copy_row()]
    for name, (outputs, inputs) in SHAPES.items():
        bits = 8 if name == "logits" else 4
        for int15 in (False, True):
            for tokens in TOKENS[: 2 if name == "logits" else 3]:
                label = f"{name}, {bits}-bit weights, {'15' if int15 else '8'}-bit activations"
                rows.append(_product_row(library, team, label, (outputs, inputs, tokens), bits, int15))
    return HEADER, rows + _step_rows(library, threads)


def _step_rows(library: Library, threads: int) -> list[list[str]]:
    """Whole steps of a random model of the starter's shape, activations in 15 bits: products, attention, all."""
    weights = _random_model(library)
    decoder = Decoder(library, weights, page_count=512, max_tokens=512, max_rows=32, context=8192, threads=threads)
    ids = np.zeros(8192, np.int32)
    rows = []
    for label, (streams, count, context) in STEPS.items():
        held = -(-context // PAGE)
        pages = np.arange(streams * held, dtype=np.int32).reshape(streams, held)
        slices = np.array([(count, context, ids.ctypes.data, own.ctypes.data, 0, 1) for own in pages], SLICE)
        seconds = _median_s(partial(decoder.step, slices))
        moved = weights.nbytes + streams * held * page_bytes(MODEL)
        rows.append(_row(label, f"{streams} × {count}", seconds, moved, streams * count * _products_per_token()))
    return rows


def _products_per_token() -> int:
    """Multiplications of one token in all layers; those of the logits do not count, since prompts need one."""
    query, kv = MODEL.heads * MODEL.width, MODEL.kv_heads * MODEL.width
    return MODEL.layers * MODEL.hidden * (2 * query + 2 * kv + 3 * MODEL.ffn)


def _random_model(library: Library) -> DecoderWeights:
    generator, arena = np.random.default_rng(0), Arena()
    query, kv = MODEL.heads * MODEL.width, MODEL.kv_heads * MODEL.width

    def matrix(rows: int, columns: int, bits: int) -> Matrix:
        values = generator.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)
        return Matrix.pack(library, [Rows(values, FLOAT)], columns, bits=bits, int15=True, arena=arena)

    ones = np.ones(MODEL.hidden, np.float32)
    layers = tuple(
        LayerWeights(
            ones,
            ones,
            matrix(query + 2 * kv, MODEL.hidden, 4),
            matrix(MODEL.hidden, query, 4),
            matrix(2 * MODEL.ffn, MODEL.hidden, 4),
            matrix(MODEL.hidden, MODEL.ffn, 4),
        )
        for _ in range(MODEL.layers)
    )
    embedding = matrix(MODEL.vocabulary, MODEL.hidden, 8)
    frequencies = np.ones(MODEL.width // 2, np.float32)
    return DecoderWeights(MODEL, frequencies, embedding, embedding, ones, layers)


def _product_row(
    library: Library, team: Team, label: str, shape: tuple[int, int, int], bits: int, int15: bool
) -> list[str]:
    outputs, inputs, tokens = shape
    weights = np.random.default_rng(0).standard_normal((outputs, inputs)).astype(np.float32)
    arena = Arena()
    count = max(1, min(40, SPREAD_BYTES * 8 // (outputs * inputs * bits)))
    matrices = [
        Matrix.pack(library, [Rows(weights, FLOAT)], inputs, bits=bits, int15=int15, arena=arena) for _ in range(count)
    ]
    x = np.random.default_rng(1).standard_normal((tokens, inputs)).astype(np.float32)
    out, space = np.empty((tokens, outputs), np.float32), Quantized(tokens, inputs)

    def run() -> None:
        for matrix in matrices:
            multiply_into(library, matrix, x, out, space, team)

    seconds = _median_s(run) / count
    moved = matrices[0].nbytes + x.nbytes + out.nbytes
    return _row(label, f"{outputs} × {inputs} × {tokens}", seconds, moved, outputs * inputs * tokens)


def _copy_row() -> list[str]:
    source = np.ones(SPREAD_BYTES, np.uint8)
    target = np.empty_like(source)
    seconds = _median_s(lambda: np.copyto(target, source))
    return _row("copy, one thread (numpy)", f"{SPREAD_BYTES >> 20} MiB", seconds, 2 * SPREAD_BYTES, 0)


def _row(label: str, shape: str, seconds: float, moved: int, products: int) -> list[str]:
    rate = f"{products / seconds / 1e9:.0f}" if products else "–"
    return [label, shape, f"{seconds * 1e6:.0f}", f"{moved / seconds / 1e9:.1f}", rate]


def _median_s(run: Callable[[], object]) -> float:
    run()
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)

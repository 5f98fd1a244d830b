"""The truth: float64 products with the weights as they are stored, activations rounded per block of 32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 32


def quantized_reference(x: NDArray[np.float32], int15: bool = False) -> NDArray[np.float64]:
    """x: [tokens, columns] -> what 8 bits (15 if int15) with one scale per 32 columns keep of it."""
    most = np.float32(16383 if int15 else 127)
    blocks = x.reshape(len(x), -1, BLOCK)
    peaks = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(most, peaks, out=np.zeros_like(peaks), where=peaks > 0)
    held: NDArray[np.float64] = np.rint(blocks * inverse).astype(np.float64) * (peaks / most)
    return held.reshape(x.shape)


def block_matmul_reference(
    x: NDArray[np.float32], weights: NDArray[np.float32], int15: bool = False
) -> NDArray[np.float64]:
    """x: [tokens, columns], weights: [rows, columns] dequantised -> [tokens, rows] float64."""
    return quantized_reference(x, int15) @ weights.astype(np.float64).T

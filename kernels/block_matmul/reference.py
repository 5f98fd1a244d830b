"""The truth: float64 products with the weights as they are stored, activations rounded to 8 bits per block of 32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 32


def quantized_reference(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """x: [tokens, columns] -> the values that 8 bits with one scale per 32 columns keep of it."""
    blocks = x.reshape(len(x), -1, BLOCK)
    peaks = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), peaks, out=np.zeros_like(peaks), where=peaks > 0)
    held: NDArray[np.float64] = np.rint(blocks * inverse).astype(np.float64) * (peaks / np.float32(127))
    return held.reshape(x.shape)


def block_matmul_reference(x: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """x: [tokens, columns], weights: [rows, columns] dequantised -> [tokens, rows] float64."""
    return quantized_reference(x) @ weights.astype(np.float64).T

"""Random numbers by counter: one number per (seed, position), computed when wanted, with no state to keep.

Philox-4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), over arrays of rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10


def philox(counter: Words, key: Words) -> Words:
    """The block cipher itself.

    Args:
        counter: ``[4, n]`` 32-bit words.
        key: ``[2, n]`` 32-bit words.

    Returns:
        ``[4, n]`` 32-bit words, all of them held in uint64.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (right >> _SHIFT) ^ c1 ^ k0, right & _LOW, (left >> _SHIFT) ^ c3 ^ k1, left & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack((c0, c1, c2, c3))


def uniform(seeds: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per row, with 53 random bits.

    Args:
        seeds: ``[n]`` which stream.
        positions: ``[n]`` which number of the stream.
    """
    keys, counters = seeds.astype(np.uint64), positions.astype(np.uint64)
    zeros = np.zeros_like(counters)
    words = philox(
        np.stack((counters & _LOW, counters >> _SHIFT, zeros, zeros)),
        np.stack((keys & _LOW, keys >> _SHIFT)),
    )
    bits: Words = (words[0] << np.uint64(21)) ^ (words[1] >> np.uint64(11))
    return np.multiply(bits, 2.0**-53, dtype=np.float64)


def derive_seed(seed: int, stream: int) -> int:
    """The seed of stream number ``stream`` under ``seed``; stream 0 is ``seed`` itself."""
    if stream == 0:
        return seed
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    counter = np.array([[stream], [0], [0], [1]], np.uint64)
    words = philox(counter, np.array([[low], [high]], np.uint64))
    value = (int(words[0, 0]) << 32) | int(words[1, 0])
    return value - (1 << 64) if value >= 1 << 63 else value

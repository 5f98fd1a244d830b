"""The next token of every row: temperature, top-k, top-p, min-p, and one random number per (seed, position)."""

from kernels.sampling.op import Sampled, sample

__all__ = ["Sampled", "sample"]

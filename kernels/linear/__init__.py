"""Products of rows with a matrix, ``x @ w.T + bias``: torch's, or with one order of every sum."""

from kernels.linear.op import linear

__all__ = ["linear"]

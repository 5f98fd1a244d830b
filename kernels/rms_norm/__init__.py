"""Root-mean-square normalisation over the last dimension."""

from kernels.rms_norm.cpu import rms_norm

__all__ = ["rms_norm"]

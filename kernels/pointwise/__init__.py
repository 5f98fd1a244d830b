"""Functions of single values: torch's, or ours, where a value's bits do not depend on where it stands.

On a CPU torch works on whole vectors and on what is left behind the last one in two ways whose results differ, and how
many values are left depends on the whole batch.
"""

from kernels.pointwise.cpu import gelu_tanh, sigmoid, silu, softplus, tanh

__all__ = ["gelu_tanh", "sigmoid", "silu", "softplus", "tanh"]

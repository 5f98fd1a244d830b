"""Softmax and log-sum-exp over the last dimension: torch's, or with one order of every sum."""

from kernels.softmax.cpu import log_sum_exp, softmax

__all__ = ["log_sum_exp", "softmax"]

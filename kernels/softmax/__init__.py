"""Softmax and what is made of it over the last dimension: a fixed order of every sum where numerics are exact."""

from kernels.softmax.op import log_softmax, log_sum_exp, logprob_gather, softmax

__all__ = ["log_softmax", "log_sum_exp", "logprob_gather", "softmax"]

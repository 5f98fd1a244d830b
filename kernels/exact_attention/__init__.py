"""Attention whose rows have the same bits however a sequence is cut into steps, batches and pages.

One kernel serves decoding, prefill chunks and a plain forward, in which the whole sequence is one page.
"""

from kernels.exact_attention.cpu import Spans, exact_attention, plan_spans

__all__ = ["Spans", "exact_attention", "plan_spans"]

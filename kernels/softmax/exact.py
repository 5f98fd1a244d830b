"""The C kernels as functions of tensors: rows do not know each other."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.native import needed
from kernels.softmax.cpu import picked


def exact_softmax(x: Tensor) -> Tensor:
    """x: [..., width] f32 on the CPU -> [..., width] f32."""
    rows = _rows(x)
    out = torch.empty(x.shape)
    _call("softmax", rows, out)
    return out


def exact_log_softmax(x: Tensor) -> Tensor:
    """x: [..., width] f32 on the CPU -> [..., width] f32."""
    return x - exact_log_sum_exp(x).unsqueeze(-1)


def exact_log_sum_exp(x: Tensor) -> Tensor:
    """x: [..., width] f32 on the CPU -> [...] f32."""
    rows = _rows(x)
    out = torch.empty(x.shape[:-1])
    _call("log_sum_exp", rows, out)
    return out


def exact_logprob_gather(logits: Tensor, targets: Tensor, entropy: bool = False) -> tuple[Tensor, ...]:
    """logits: [N, width] on the CPU, targets: [N] i64 -> log-probabilities and normalisers, [N] f32 each."""
    upcast = logits.float()
    normaliser = exact_log_sum_exp(upcast)
    return picked(upcast, targets, normaliser), normaliser


def _rows(x: Tensor) -> Tensor:
    if x.dtype is not torch.float32:
        raise TypeError(f"the exact softmax is of float32, not of {x.dtype}")
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _call(name: str, rows: Tensor, out: Tensor) -> None:
    needed().function(name)(
        ctypes.c_void_p(rows.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(len(rows)),
        ctypes.c_int64(rows.shape[1]),
        ctypes.c_int64(rows.stride(0)),
    )

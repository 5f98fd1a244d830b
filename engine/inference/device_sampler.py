"""Drawing on a GPU: one operator for all rows, whatever their parameters, without a look at the device's answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.inference.request import SamplingParams
from engine.inference.transfer import on_device
from kernels.arguments import interpreting
from kernels.numerics import exact
from kernels.registry import Numerics, select
from kernels.sampling import sample


def has_kernel(logits: Tensor) -> bool:
    """Whether the operator is computed by a kernel for such logits, and not by the operators that it is made of."""
    if logits.device.type == "cpu" and not interpreting():
        return False  # without a look at the table, which brings every operator's module in
    kind: Numerics = "exact" if exact() else "fast"
    width = logits.shape[-1]
    return select("sample", {"vocabulary": width}, logits.dtype, logits.device.type, kind).backend == "triton"


def draw_by_kernel(logits: Tensor, params: Sequence[SamplingParams], positions: Sequence[int]) -> Tensor:
    """Tokens ``[n]`` int64 of the rows of ``logits [n, vocabulary]``, by the rule and the numbers of ``sampler``."""
    device, width = logits.device, logits.shape[1]
    numbers = np.array(
        [(min(item.top_k, width), item.seed, at) for item, at in zip(params, positions, strict=True)], np.int64
    )
    shares = np.array([(item.temperature, item.min_p, item.top_p) for item in params], np.float64)
    top_ks, seeds, places = on_device(torch.from_numpy(numbers.T.copy()), device)
    temperatures, min_ps, top_ps = on_device(torch.from_numpy(shares.T.copy()), device)
    return sample(logits, temperatures.float(), top_ks.int(), top_ps, min_ps.float(), seeds, places).tokens

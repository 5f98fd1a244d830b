"""The C kernel as a function of tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.gated_delta_net.states import DeltaWeights, LayerStates, StatePlan
from kernels.native import library


def gated_delta_net(
    mixed: Tensor, decay: Tensor, write: Tensor, weights: DeltaWeights, states: LayerStates, plan: StatePlan
) -> Tensor | None:
    """The delta net in C, all float32; None where the kernel does not serve.

    It serves on the CPU, without gradients.
    """
    wants_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in (mixed, decay, write))
    if mixed.device.type != "cpu" or wants_gradient:
        return None
    kernels = library()
    if kernels is None:
        return None
    shape = plan.shape
    out = torch.empty(len(mixed), shape.value_heads, shape.value_dim)
    tensors = (
        *(part.contiguous() for part in (mixed, decay, write)),
        weights.filters,
        weights.rate,
        weights.bias,
        plan.starts,
        plan.slots,
        plan.fresh,
        plan.saves,
        states.inputs,
        states.memory,
        out,
    )
    counts = (len(plan.slots), len(plan.saves))
    sizes = (*counts, shape.key_heads, shape.value_heads, shape.key_dim, shape.value_dim, shape.taps)
    failed = kernels.function("gated_delta_net")(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors), *(ctypes.c_int64(size) for size in sizes)
    )
    if failed:
        raise MemoryError("no memory for the gated delta net's intermediate values")
    return out

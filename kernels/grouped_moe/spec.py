"""Contracts of a mixture of experts: the choice of experts, and the weighted sum of theirs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.grouped_moe import cpu
from kernels.grouped_moe.reference import grouped_moe_reference, route_reference
from kernels.grouped_moe.unit import SWIGLU, GatedUnit
from kernels.registry import Implementation
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

BF16, F32 = torch.bfloat16, torch.float32
LIMITED = GatedUnit(1.702, 7.0, 1.0)


def _mixture(
    rows: int, experts: int, each: int, hidden: int, ffn: int, dtype: torch.dtype = BF16, unit: GatedUnit = SWIGLU
) -> Case:
    """Tokens [rows, hidden] with ``each`` of the experts, not all of which are wanted; with biases if limited."""

    def make(maker: Maker) -> Arguments:
        scores = maker.normal(rows, experts, dtype=F32, scale=2)
        weights, chosen = cpu.route(scores, each, normalised=True)
        bias = unit.limit is not None
        return {
            "x": maker.normal(rows, hidden, dtype=dtype),
            "gate_up": maker.normal(experts, 2 * ffn, hidden, dtype=dtype, scale=hidden**-0.5),
            "down": maker.normal(experts, hidden, ffn, dtype=dtype, scale=ffn**-0.5),
            "chosen": chosen,
            "weights": weights.to(dtype),
            "gate_up_bias": maker.normal(experts, 2 * ffn, dtype=dtype) if bias else None,
            "down_bias": maker.normal(experts, hidden, dtype=dtype) if bias else None,
            "unit": unit,
        }

    pairs = rows * each
    moved = 3 * min(experts, pairs) * hidden * ffn + 2 * rows * hidden
    name = f"{rows}x{each}of{experts}-{hidden}x{ffn}-{str(dtype).removeprefix('torch.')}"
    work = Work(moved * dtype.itemsize, flops=6 * pairs * hidden * ffn)
    return Case(name + ("-limited" if unit.limit is not None else ""), make, work)


def _routing(rows: int, experts: int, each: int, normalised: bool, dtype: torch.dtype = F32) -> Case:
    def make(maker: Maker) -> Arguments:
        return {"scores": maker.normal(rows, experts, dtype=dtype), "each": each, "normalised": normalised}

    name = f"{rows}x{each}of{experts}{'-normalised' if normalised else ''}"
    return Case(name, make, Work(rows * experts * dtype.itemsize + rows * each * 12))


def _grouped_mm(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gate_up_bias: Tensor | None,
    down_bias: Tensor | None,
    unit: GatedUnit,
) -> Tensor:
    """Torch's grouped products; without biases, which they do not have."""
    experts, each = len(down), chosen.shape[1]
    flat = chosen.flatten()
    order = flat.argsort(stable=True)
    counts = torch.zeros(experts, dtype=torch.int32, device=x.device)
    ends = counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32)).cumsum(0, dtype=torch.int32)
    both = functional.grouped_mm(x[order // each], gate_up.transpose(1, 2), offs=ends)
    gate, up = both.chunk(2, 1)
    found = functional.grouped_mm(functional.silu(gate) * up, down.transpose(1, 2), offs=ends)
    pairs = torch.empty_like(found)
    pairs[order] = found
    return (pairs.view(len(x), each, -1) * weights[:, :, None]).sum(1)


GATES = (
    Gate("sort_by_expert", wide_loads=False),
    Gate("expert_gate_up", tensor_cores=("HGMMA",)),
    Gate("expert_down", tensor_cores=("HGMMA",)),
    Gate("combine"),
)
SPECS = (
    Spec(
        name="grouped_moe",
        operator="grouped_moe",
        summary="weighted sum of each token's experts, without waiting for the device",
        gpu="kernels.grouped_moe.gpu:grouped_moe",
        reference=grouped_moe_reference,
        plain=cpu.grouped_moe,
        cases=(
            _mixture(0, 4, 2, 64, 32),
            _mixture(1, 5, 2, 64, 48),
            _mixture(70, 3, 2, 40, 100),
            _mixture(9, 4, 4, 72, 32, unit=LIMITED),
            _mixture(7, 8, 3, 33, 20, F32),
        ),
        shapes=tuple(_mixture(rows, 128, 8, 2048, 768) for rows in (1, 16, 8192)),
        gates=GATES,
        peers={"grouped_mm": _grouped_mm},
    ),
    Spec(
        name="route",
        operator="grouped_moe",
        summary="the likeliest experts of each token, by a softmax over all",
        gpu="kernels.grouped_moe.gpu:route",
        reference=route_reference,
        plain=cpu.route,
        cases=(
            _routing(0, 8, 2, True), _routing(1, 5, 5, False), _routing(9, 60, 4, True), _routing(4, 128, 8, False)
        ),
        shapes=tuple(_routing(rows, 128, 8, True) for rows in (16, 8192)),
        gates=(Gate("route", wide_loads=False),),
    ),
)  # fmt: skip

_GPU = frozenset({"cuda"})
_BOTH = frozenset({"fast", "exact"})
_FLOATS = frozenset({BF16, torch.float16, F32})

IMPLEMENTATIONS = {
    "grouped_moe": (
        Implementation("triton", SPECS[0].gpu, _GPU, _FLOATS, _BOTH),
        Implementation("torch", "kernels.grouped_moe.cpu:grouped_moe", numerics=_BOTH),
    ),
    "route": (
        Implementation("triton", SPECS[1].gpu, _GPU, _FLOATS, _BOTH),
        Implementation("torch", "kernels.grouped_moe.cpu:route", numerics=_BOTH),
    ),
}

"""Launches a mixture of experts: shapes alone decide about grids, so nothing waits for the device.

A token has the same bits in any batch: more rows of an expert change the tile, never the order of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.arguments import require, within
from kernels.grouped_moe import kernel
from kernels.grouped_moe.unit import SWIGLU, GatedUnit
from kernels.tuned import tuned

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
OPERATOR = "grouped_moe"
MAX_EXPERTS, MAX_EACH = 1024, 32


def route(scores: Tensor, each: int, normalised: bool) -> tuple[Tensor, Tensor]:
    """The likeliest experts of each token by a softmax over all; of equal scores the first.

    Args:
        scores: [rows, experts] bf16, f16 or f32.
        each: how many a token gets.
        normalised: whether their shares add up to one.

    Returns:
        Shares [rows, each] f32, the largest first, and the experts [rows, each] i64.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    require("scores", scores, dtypes=FLOATS, shape=(None, None))
    rows, experts = scores.shape
    within("scores's experts", experts, 1, MAX_EXPERTS)
    within("each", each, 1, min(experts, MAX_EACH))
    weights = torch.empty((rows, each), dtype=torch.float32, device=scores.device)
    chosen = torch.empty((rows, each), dtype=torch.int64, device=scores.device)
    if rows:
        kernel.route[(rows,)](
            scores, weights, chosen, experts, scores.stride(0), EACH=each, NORMALISED=normalised,
            BLOCK=_block(experts), KEPT=_block(each), **tuned(OPERATOR, "route", experts=experts),
        )  # fmt: skip
    return weights, chosen


def grouped_moe(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    unit: GatedUnit = SWIGLU,
) -> Tensor:
    """The weighted sum of each token's experts, added in the order in which it chose them.

    Args:
        x: [rows, hidden] bf16, f16 or f32.
        gate_up: [experts, 2 ffn, hidden] of the same dtype, gates in front.
        down: [experts, hidden, ffn] of the same dtype.
        chosen: [rows, each] i64, each token's experts.
        weights: [rows, each], their shares, in floats.
        gate_up_bias: [experts, 2 ffn], or None.
        down_bias: [experts, hidden], or None.
        unit: between the two products.

    Returns:
        [rows, hidden] of x's dtype.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    _require(x, gate_up, down, chosen, weights, gate_up_bias, down_bias)
    (rows, hidden), each = x.shape, chosen.shape[1]
    experts, ffn = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not rows:
        return out
    tiles = _sorted(chosen, experts)
    active = torch.empty((rows * each, ffn), dtype=x.dtype, device=x.device)
    config = tuned(OPERATOR, "expert_gate_up", bytes=x.element_size(), tile=tiles.height)
    kernel.expert_gate_up[(-(-ffn // config["BLOCK_N"]), tiles.count)](
        x, gate_up, gate_up if gate_up_bias is None else gate_up_bias, active, *tiles.tensors, ffn, hidden,
        x.stride(0), each, unit.sharpness, unit.limit or 0.0, unit.offset, LIMITED=unit.limit is not None,
        HAS_BIAS=gate_up_bias is not None, WHOLE=hidden % config["BLOCK_K"] == 0, BLOCK_M=tiles.height, **config,
    )  # fmt: skip
    found = torch.empty((rows * each, hidden), dtype=x.dtype, device=x.device)
    config = tuned(OPERATOR, "expert_down", bytes=x.element_size(), tile=tiles.height)
    kernel.expert_down[(-(-hidden // config["BLOCK_N"]), tiles.count)](
        active, down, down if down_bias is None else down_bias, found, *tiles.tensors, hidden, ffn,
        HAS_BIAS=down_bias is not None, WHOLE=ffn % config["BLOCK_K"] == 0, BLOCK_M=tiles.height, **config,
    )  # fmt: skip
    config = tuned(OPERATOR, "combine", hidden=hidden)
    kernel.combine[(-(-hidden // config["BLOCK"]), rows)](found, weights, out, hidden, EACH=each, **config)
    return out


@dataclass(frozen=True)
class _Tiles:
    """Pairs of a token and an expert, sorted by expert, and their tiles.

    Attributes:
        count: the most that there may be; those that are not needed are empty.
        height: pairs of a tile.
        tensors: the pairs' numbers in order, and each tile's expert, first place and the expert's last place, i32.
    """

    count: int
    height: int
    tensors: tuple[Tensor, Tensor, Tensor, Tensor]


def _sorted(chosen: Tensor, experts: int) -> _Tiles:
    pairs = chosen.numel()
    config = tuned(OPERATOR, "sort_by_expert", each_expert=-(-pairs // experts))
    height = config["BLOCK_M"]
    count = pairs // height + min(experts, pairs)
    order, *tiles = (
        torch.empty(size, dtype=torch.int32, device=chosen.device) for size in (pairs, count, count, count)
    )
    kernel.sort_by_expert[(experts,)](chosen, order, *tiles, pairs, count, experts, BINS=_block(experts), **config)
    return _Tiles(count, height, (order, tiles[0], tiles[1], tiles[2]))


def _require(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gate_up_bias: Tensor | None,
    down_bias: Tensor | None,
) -> None:
    require("x", x, dtypes=FLOATS, shape=(None, None))
    rows, hidden = x.shape
    require("down", down, dtypes=(x.dtype,), shape=(None, hidden, None), beside=x, contiguous=True)
    experts, _, ffn = down.shape
    within("down's experts", experts, 1, MAX_EXPERTS)
    require("gate_up", gate_up, dtypes=(x.dtype,), shape=(experts, 2 * ffn, hidden), beside=x, contiguous=True)
    require("chosen", chosen, dtypes=(torch.int64,), shape=(rows, None), beside=x, contiguous=True)
    require("weights", weights, dtypes=FLOATS, shape=chosen.shape, beside=x, contiguous=True)
    within("chosen's experts of a token", chosen.shape[1], 1, MAX_EACH)
    for name, bias, width in (("gate_up_bias", gate_up_bias, 2 * ffn), ("down_bias", down_bias, hidden)):
        if bias is not None:
            require(name, bias, dtypes=(x.dtype,), shape=(experts, width), beside=x, contiguous=True)


def _block(width: int) -> int:
    return 1 << (width - 1).bit_length()

"""Contracts of softmax, its logarithm, its normaliser, and of single log-probabilities."""

from __future__ import annotations

import torch

from kernels.registry import Implementation, Shape
from kernels.softmax import cpu
from kernels.softmax import reference as truth
from kernels.spec import Arguments, Case, Function, Gate, Maker, Spec, Work

BF16, F32 = torch.bfloat16, torch.float32


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rows(rows: int, width: int, dtype: torch.dtype, *, written: int | None = None) -> Case:
    """``written``: bytes that go out for each value that comes in; of the problems that are measured."""

    def make(maker: Maker) -> Arguments:
        return {"x": maker.normal(rows, width, dtype=dtype, scale=4.0)}

    size = rows * width
    work = None if written is None else Work(size * (dtype.itemsize + written), exponentials=size)
    return Case(f"{rows}x{width}-{_short(dtype)}", make, work)


def _scored(rows: int, width: int, dtype: torch.dtype, *, entropy: bool, measured: bool = False) -> Case:
    def make(maker: Maker) -> Arguments:
        targets = maker.integers(0, width, rows, dtype=torch.int64)
        return {"logits": maker.normal(rows, width, dtype=dtype, scale=4.0), "targets": targets, "entropy": entropy}

    work = Work(rows * width * dtype.itemsize, exponentials=rows * width) if measured else None
    return Case(f"{rows}x{width}-{_short(dtype)}{'-entropy' if entropy else ''}", make, work)


def _spec(
    name: str, summary: str, reference: Function, plain: Function, kernels: tuple[str, ...], written: int
) -> Spec:
    return Spec(
        name=name,
        operator="softmax",
        summary=summary,
        gpu=f"kernels.softmax.gpu:{name}",
        reference=reference,
        plain=plain,
        cases=tuple(_rows(*size, dtype) for size, dtype in SMALL),
        shapes=tuple(_rows(*size, F32, written=written) for size in ((1, 128_256), (128, 128_256), (8192, 128))),
        gates=tuple(Gate(kernel, wide_loads=kernel != "logprob_gather") for kernel in kernels),
    )


SMALL = (
    ((0, 64), F32),
    ((1, 1), F32),
    ((5, 100), F32),
    ((9, 32), BF16),
    ((3, 4097), F32),
    ((2, 9_000), BF16),
    ((1, 9_000), F32),
)
NORMALISE = ("softmax_rows", "split_sums", "softmax_splits")

SPECS = (
    _spec("softmax", "shares that sum to 1", truth.softmax_reference, cpu.softmax, NORMALISE, 4),
    _spec("log_softmax", "logarithms of shares", truth.log_softmax_reference, cpu.log_softmax, NORMALISE, 4),
    _spec(
        "log_sum_exp",
        "logarithm of the sum of exponentials",
        truth.log_sum_exp_reference,
        cpu.log_sum_exp,
        ("split_sums", "logprob_gather"),
        0,
    ),
    Spec(
        name="logprob_gather",
        operator="softmax",
        summary="log-probabilities of given tokens, and the entropy",
        gpu="kernels.softmax.gpu:logprob_gather",
        reference=truth.logprob_gather_reference,
        plain=cpu.logprob_gather,
        cases=tuple(_scored(*size, dtype, entropy=number % 2 == 0) for number, (size, dtype) in enumerate(SMALL)),
        shapes=tuple(
            _scored(rows, 128_256, BF16, entropy=entropy, measured=True)
            for rows, entropy in ((128, False), (8192, False), (8192, True))
        ),
        gates=(Gate("split_sums"), Gate("logprob_gather", wide_loads=False)),
    ),
)

_GPU = frozenset({"cuda"})
_CPU = frozenset({"cpu"})
_EXACT = frozenset({"exact"})
_BOTH = frozenset({"fast", "exact"})
_FLOATS = frozenset({BF16, torch.float16, F32})


def _no_entropy(shape: Shape) -> bool:
    return not shape["entropy"]


IMPLEMENTATIONS = {
    **{
        name: (
            Implementation("triton", f"kernels.softmax.gpu:{name}", _GPU, _FLOATS, _BOTH),
            Implementation("c", f"kernels.softmax.exact:exact_{name}", _CPU, numerics=_EXACT),
            Implementation("torch", f"kernels.softmax.cpu:{name}"),
        )
        for name in ("softmax", "log_softmax", "log_sum_exp")
    },
    "logprob_gather": (
        Implementation("triton", "kernels.softmax.gpu:logprob_gather", _GPU, _FLOATS, _BOTH),
        Implementation("c", "kernels.softmax.exact:exact_logprob_gather", _CPU, numerics=_EXACT, fits=_no_entropy),
        Implementation("torch", "kernels.softmax.cpu:logprob_gather"),
    ),
}

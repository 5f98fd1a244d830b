"""An operator against its reference: distance from float64, full outputs, the same bits twice, arguments left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.utils.deterministic
from torch import Tensor

from kernels.registry import specs
from kernels.spec import Arguments, Case, Function, Maker, Spec, tensors_in

#: How much farther from the truth than torch in the same dtype an element may be (FlashAttention's rule), and beyond
#: that by how many units in the last place of the largest value.
TIMES_PLAIN, ULPS = 2.0, 2.0


def problems(operator: str) -> list[Any]:
    """pytest's parameters: every spec of a folder with each of its small cases."""
    return [pytest.param(spec, case, id=f"{spec.name}-{case.name}") for spec in specs(operator) for case in spec.cases]


def check(spec: Spec, case: Case, device: str, function: Function | None = None, seed: int = 0) -> None:
    """Run ``function`` (the Triton launcher unless given) on ``case`` and compare all that it yields.

    Raises:
        AssertionError: naming the output, the case and the distance.
    """
    function = function or spec.launcher()
    with poisoned():
        got = spec.outputs(function, case.make(Maker(device, seed)))
        again = spec.outputs(function, case.make(Maker(device, seed)))
    truth = spec.outputs(spec.reference, case.make(Maker(device, seed)))[: len(got)]
    plain = spec.outputs(spec.plain, case.make(Maker(device, seed)))
    names = [f"{spec.name}/{case.name} output {index}" for index in range(len(got))]
    for name, ours, twice, exact, theirs in zip(names, got, again, truth, plain, strict=True):
        assert torch.equal(_bits(ours), _bits(twice)), f"{name}: two runs differ"
        assert_close(name, ours, exact, theirs, spec.allowed(ours.dtype))
    arguments, untouched = case.make(Maker(device, seed)), case.make(Maker(device, seed))
    spec.outputs(function, arguments)
    _assert_untouched(spec, case, arguments, untouched)


def assert_close(name: str, ours: Tensor, truth: Tensor, plain: Tensor | None, allowed: float) -> None:
    """Raise unless ``ours`` is near ``truth``: as a whole within ``allowed``, each element as near as torch's own.

    Args:
        name: for the message.
        ours: what was computed; integers and booleans must be equal.
        truth: the same in float64.
        plain: the same by torch in the working dtype, or None to compare as a whole only.
        allowed: relative Frobenius distance.
    """
    assert ours.shape == truth.shape, f"{name}: shape {list(ours.shape)}, expected {list(truth.shape)}"
    if not ours.is_floating_point():
        assert torch.equal(ours, truth.to(ours.dtype)), f"{name}: differs"
        return
    found, truth = ours.double(), truth.double()
    assert torch.equal(torch.isfinite(found), torch.isfinite(truth)), f"{name}: not finite where it should be"
    kept = torch.isfinite(truth)
    found, truth = found[kept], truth[kept]
    if not found.numel():
        return
    distance, size = (found - truth).norm(), truth.norm()
    assert distance <= allowed * size + 1e-12, f"{name}: {distance / size:.2e} from float64, allowed {allowed:.0e}"
    if plain is not None:
        theirs = (plain.double()[kept] - truth).abs().max()
        unit = torch.finfo(ours.dtype).eps * truth.abs().max()
        most = TIMES_PLAIN * theirs + ULPS * unit
        worst = (found - truth).abs().max()
        assert worst <= most, f"{name}: an element is off by {worst:.2e}, torch's by {theirs:.2e}"


@contextmanager
def poisoned() -> Iterator[None]:
    """Within the block fresh memory holds NaN (integers: the largest), so what is not written shows."""
    deterministic: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = filled


def _assert_untouched(spec: Spec, case: Case, after: Arguments, before: Arguments) -> None:
    for name, value in before.items():
        if name in spec.writes:
            continue
        for old, new in zip(tensors_in(value), tensors_in(after[name]), strict=True):
            assert torch.equal(_bits(old), _bits(new)), f"{spec.name}/{case.name}: {name} was changed"


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.uint8) if tensor.dim() else tensor.detach().reshape(1)

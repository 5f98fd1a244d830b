"""The Triton kernels: against float64, wrong arguments by name, and a row's bits in any batch."""

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.registry import preferring
from kernels.rms_norm import add_rms_norm, rms_norm
from kernels.rms_norm import gpu as launch
from kernels.rms_norm.reference import rms_norm_backward_reference
from kernels.spec import Maker
from kernels.testing.check import assert_close, check, problems


@pytest.mark.parametrize(("spec", "case"), problems("rms_norm"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


def test_the_weight_s_gradient(device):
    maker = Maker(device)
    arguments = (maker.normal(33, 96), maker.normal(33, 96), maker.normal(96), 1e-5)
    ours = launch.rms_norm_backward(*arguments, weight_gradient=True)
    truth = rms_norm_backward_reference(*arguments, weight_gradient=True)
    assert_close("hidden", ours[0], truth[0], None, 5e-3)
    assert_close("weight", ours[1], truth[1], None, 1e-5)


@pytest.mark.parametrize("width", [100, 576, 2500])
def test_a_row_has_the_same_bits_in_any_batch(width, device):
    maker = Maker(device)
    hidden, residual, weight = maker.normal(21, width), maker.normal(21, width), maker.normal(width)
    whole = launch.add_rms_norm(hidden, residual, weight, 1e-5)
    for rows in (slice(0, 1), slice(7, 12), slice(20, 21)):
        part = launch.add_rms_norm(hidden[rows], residual[rows], weight, 1e-5)
        assert all(torch.equal(ours, theirs[rows]) for ours, theirs in zip(part, whole, strict=True))


def test_rows_of_a_wider_tensor_are_taken_as_they_lie(device):
    maker = Maker(device)
    wide, weight = maker.normal(9, 256), maker.normal(128)
    assert torch.equal(
        launch.rms_norm(wide[:, 128:], weight, 1e-5), launch.rms_norm(wide[:, 128:].clone(), weight, 1e-5)
    )


def test_the_operator_goes_through_them_forward_and_backward(device):
    maker = Maker(device)
    hidden, weight = maker.normal(2, 5, 64, dtype=torch.float32).requires_grad_(), maker.normal(64, dtype=torch.float32)
    with preferring("triton"):
        ours = rms_norm(hidden, weight, 1e-5)
        (gradient,) = torch.autograd.grad(ours.sum(), hidden)
        with torch.no_grad():
            both = add_rms_norm(hidden[0], hidden[1], weight, 1e-5)
    truth = rms_norm(hidden, weight, 1e-5)
    torch.testing.assert_close(ours, truth)
    torch.testing.assert_close(gradient, torch.autograd.grad(truth.sum(), hidden)[0])
    torch.testing.assert_close(both[0], rms_norm(hidden[0] + hidden[1], weight, 1e-5))


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_a_weight_in_float32_is_rounded_once_with_the_result(backend, device):
    maker = Maker(device)
    hidden, weight = maker.normal(3, 4, 64).requires_grad_(), 1 + maker.normal(64, dtype=torch.float32, scale=1e-3)
    wide = hidden.float()
    with preferring(backend):
        found = [
            (one, *torch.autograd.grad(one.float().square().sum(), hidden))
            for one in (
                rms_norm(hidden, weight, 1e-5),
                rms_norm(wide, weight, 1e-5).to(hidden.dtype),
            )
        ]
    for ours, truth in zip(*found, strict=True):
        assert ours.dtype is torch.bfloat16
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"hidden": torch.zeros(4, 8, dtype=torch.float64)}, "hidden"),
        ({"hidden": torch.zeros(8)}, "hidden"),
        ({"hidden": torch.zeros(8, 4).t()}, "hidden"),
        ({"residual": torch.zeros(4, 9)}, "residual"),
        ({"residual": torch.zeros(4, 8, dtype=torch.bfloat16)}, "residual"),
        ({"residual": torch.zeros(4, 8, device="meta")}, "residual"),
        ({"weight": torch.zeros(7)}, "weight"),
        ({"weight": torch.zeros(8, dtype=torch.bfloat16)}, "weight"),
        ({"hidden": torch.zeros(4, 1, 8)}, "hidden"),
        ({"weight": torch.zeros(16)[::2]}, "weight"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    fitting = {"hidden": torch.zeros(4, 8), "residual": torch.zeros(4, 8), "weight": torch.zeros(8)}
    moved = {name: value if value.is_meta else value.to(device) for name, value in {**fitting, **change}.items()}
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.add_rms_norm(**moved, eps=1e-5)
    assert raised.value.argument == argument

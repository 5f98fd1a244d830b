"""The Triton kernels: against float64, wrong arguments by name, and a value's bits in any batch."""

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.numerics import numerics
from kernels.registry import preferring
from kernels.spec import Maker
from kernels.swiglu import gpu as launch
from kernels.swiglu import swiglu
from kernels.testing.check import check, problems


@pytest.mark.parametrize(("spec", "case"), problems("swiglu"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


@pytest.mark.parametrize("width", [100, 1000, 2500])
def test_a_row_has_the_same_bits_in_any_batch(width, device):
    maker = Maker(device)
    gradient, gate, up = (maker.normal(21, width) for _ in range(3))
    whole = launch.swiglu(gate, up), *launch.swiglu_backward(gradient, gate, up)
    for rows in (slice(0, 1), slice(7, 12), slice(20, 21)):
        cut = [tensor[rows] for tensor in (gradient, gate, up)]
        part = launch.swiglu(*cut[1:]), *launch.swiglu_backward(*cut)
        assert all(torch.equal(ours, theirs[rows]) for ours, theirs in zip(part, whole, strict=True))


def test_the_gradients_lie_as_the_projection_s_output_does(device):
    gate, up = Maker(device).normal(5, 2 * 64).chunk(2, 1)
    first, second = launch.swiglu_backward(torch.ones_like(gate), gate, up)
    assert first.stride() == second.stride() == gate.stride()
    assert second.data_ptr() - first.data_ptr() == 64 * gate.itemsize


def test_large_values_neither_overflow_nor_lose_their_gradient(device):
    gate = torch.tensor([[-200.0, -90.0, 0.0, 90.0, 200.0]], device=device)
    up = torch.full_like(gate, 2.0)
    assert launch.swiglu(gate, up).tolist() == [[0.0, 0.0, 0.0, 180.0, 400.0]]
    assert launch.swiglu_backward(torch.ones_like(gate), gate, up)[0].tolist() == [[0.0, 0.0, 1.0, 2.0, 2.0]]


@pytest.mark.parametrize("shape", [(6,), (3, 8), (2, 3, 8)])
def test_the_operator_goes_through_them_forward_and_backward(shape, device):
    maker = Maker(device)
    both = maker.normal(*shape[:-1], 2 * shape[-1], dtype=torch.float32).requires_grad_()
    found = []
    for backend in ("triton", "torch"):
        with preferring(backend):
            active = swiglu(*both.chunk(2, -1))
        with preferring(backend):
            found.append((active, *torch.autograd.grad(active.square().sum(), both)))
    for ours, truth in zip(*found, strict=True):
        assert ours.shape == truth.shape
        torch.testing.assert_close(ours, truth)


def test_exact_numerics_give_the_same_result_and_refuse_gradients(device):
    maker = Maker(device)
    gate, up = maker.normal(3, 40), maker.normal(3, 40)
    with preferring("triton"), numerics("exact"):
        assert torch.equal(swiglu(gate, up), launch.swiglu(gate, up))
        with pytest.raises(RuntimeError, match="no gradient"):
            swiglu(gate.requires_grad_(), up)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"gate": torch.zeros(4, 8, dtype=torch.float64)}, "gate"),
        ({"gate": torch.zeros(())}, "gate"),
        ({"gate": torch.zeros(8, 4).t()}, "gate"),
        ({"up": torch.zeros(4, 9)}, "up"),
        ({"up": torch.zeros(4, 8, dtype=torch.bfloat16)}, "up"),
        ({"up": torch.zeros(4, 8, device="meta")}, "up"),
        ({"gradient": torch.zeros(8, 4)}, "gradient"),
        ({"gradient": torch.zeros(4, 16)[:, ::2]}, "gradient"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    fitting = {"gradient": torch.zeros(4, 8), "gate": torch.zeros(4, 8), "up": torch.zeros(4, 8)}
    moved = {name: value if value.is_meta else value.to(device) for name, value in {**fitting, **change}.items()}
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.swiglu_backward(**moved)
    assert raised.value.argument == argument

"""The Triton product: against float64, wrong arguments by name, and a row's bits in any batch and with any tile."""

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.linear import gpu as launch
from kernels.linear import linear
from kernels.numerics import numerics
from kernels.registry import preferring
from kernels.spec import Maker
from kernels.testing.check import check, problems
from kernels.tuned import forced, space, tuned


@pytest.mark.parametrize(("spec", "case"), problems("linear"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_row_has_the_same_bits_in_every_bucket_of_rows(dtype, device):
    maker = Maker(device)
    x, weight = maker.normal(600, 200, dtype=dtype), maker.normal(96, 200, dtype=dtype)
    whole = launch.linear(x, weight, float32_out=True)
    buckets = {tuned("linear", "linear", bytes=2, rows=rows, outputs=96)["BLOCK_M"] for rows in (1, 300, 600)}
    assert len(buckets) == 2, "the rows below fall into different tiles"
    for rows in (slice(0, 1), slice(7, 47), slice(100, 300), slice(599, 600)):
        assert torch.equal(launch.linear(x[rows], weight, float32_out=True), whole[rows])


def test_every_configuration_gives_the_same_bits(device):
    maker = Maker(device)
    x, weight = maker.normal(70, 320), maker.normal(80, 320)
    expected = launch.linear(x, weight, float32_out=True)
    assert len({config["BLOCK_K"] for config in space("linear", "linear")}) == 1
    for config in space("linear", "linear"):
        with forced("linear", config):
            assert torch.equal(launch.linear(x, weight, float32_out=True), expected), config


def test_rows_of_a_wider_tensor_are_taken_as_they_lie(device):
    maker = Maker(device)
    wide, weight = maker.normal(9, 256), maker.normal(40, 256)
    ours = launch.linear(wide[:, 128:], weight[:, 64:192])
    assert torch.equal(ours, launch.linear(wide[:, 128:].clone(), weight[:, 64:192].clone()))


def test_under_exact_numerics_the_operator_goes_through_it(device):
    maker = Maker(device)
    x, weight, bias = maker.normal(2, 5, 64), maker.normal(33, 64), maker.normal(33)
    with preferring("triton"), numerics("exact"):
        ours = linear(x, weight, bias, float32_out=True)
        with pytest.raises(RuntimeError, match="no gradient"):
            linear(x.clone().requires_grad_(), weight)
    assert torch.equal(ours, launch.linear(x, weight, bias, float32_out=True))
    with preferring("triton"):
        assert linear(x.float().requires_grad_(), weight.float()).requires_grad


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"x": torch.zeros(4, 8, dtype=torch.float64)}, "x"),
        ({"x": torch.zeros(8, 4).t()}, "x"),
        ({"weight": torch.zeros(5, 9)}, "weight"),
        ({"weight": torch.zeros(5, 8, dtype=torch.bfloat16)}, "weight"),
        ({"weight": torch.zeros(5, 8, device="meta")}, "weight"),
        ({"bias": torch.zeros(4)}, "bias"),
        ({"bias": torch.zeros(10)[::2]}, "bias"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    fitting = {"x": torch.zeros(4, 8), "weight": torch.zeros(5, 8), "bias": torch.zeros(5)}
    moved = {name: value if value.is_meta else value.to(device) for name, value in {**fitting, **change}.items()}
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.linear(**moved)
    assert raised.value.argument == argument

"""The Triton products with held matrices: against float64, wrong arguments by name, a row's bits in any batch."""

from dataclasses import replace

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.numerics import numerics
from kernels.quantized_linear import cpu, gpu, quantized_linear
from kernels.quantized_linear.spec import HOLD
from kernels.registry import preferring, select
from kernels.spec import Maker
from kernels.testing.check import check, problems
from kernels.tuned import space, tuned


@pytest.mark.parametrize(("spec", "case"), problems("quantized_linear"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


@pytest.mark.parametrize("kind", ["int4g32min", "nvfp4"])
def test_a_row_has_the_same_bits_in_every_bucket_of_rows(kind, device):
    maker = Maker(device)
    columns = 1056 if kind == "int4g32min" else 528
    x, bias = maker.normal(70, columns), maker.normal(64)
    weight = HOLD[kind](maker.normal(64, columns, dtype=torch.float32))
    facts = {"bytes": 2, "outputs": 64, "minima": int(weight.minima is not None)}
    configs = [tuned("quantized_linear", "few_bits_linear", rows=rows, **facts) for rows in (1, 40, 70)]
    assert {config["APART"] for config in configs} == {0, 1} and len({config["PART"] for config in configs}) == 1
    whole = gpu.quantized_linear(x, weight, bias, float32_out=True)
    for rows in (slice(0, 1), slice(7, 20), slice(25, 65)):
        assert torch.equal(gpu.quantized_linear(x[rows], weight, bias, float32_out=True), whole[rows])


def test_so_has_it_in_fp8(device):
    maker = Maker(device)
    x, bias = maker.normal(70, 1056), maker.normal(64)
    weight = HOLD["fp8"](maker.normal(64, 1056, dtype=torch.float32))
    with preferring("triton"):
        whole = quantized_linear(x, weight, bias, float32_out=True)
        for rows in (slice(0, 1), slice(7, 20), slice(25, 65)):
            assert torch.equal(quantized_linear(x[rows], weight, bias, float32_out=True), whole[rows])
    truth = x.double() @ weight.dense(torch.float64).T + bias.double()
    assert (whole.double() - truth).norm() < 4e-2 * truth.norm(), "the rows are rounded to e4m3, 3 % each"


def test_parts_have_one_size_for_all():
    for kernel in ("few_bits_linear", "scaled_linear"):
        assert len({config["PART"] for config in space("quantized_linear", kernel)}) == 1


@pytest.mark.parametrize("kind", HOLD)
def test_the_operator_goes_through_them_forward_and_backward(kind, device):
    maker = Maker(device)
    x = maker.normal(2, 3, 128, dtype=torch.bfloat16).requires_grad_()
    weight, bias = HOLD[kind](maker.normal(33, 128, dtype=torch.float32)), maker.normal(33)
    with preferring("triton"):
        ours = quantized_linear(x, weight, bias)
        (gradient,) = torch.autograd.grad(ours.float().square().sum(), x)
    plain = cpu.quantized_linear(x, weight, bias)
    truth = x.double() @ weight.dense(torch.float64).T + bias.double()
    assert (ours - truth).norm() < (4e-2 if weight.kind == "e4m3" else 4e-3) * truth.norm()
    (expected,) = torch.autograd.grad(plain.float().square().sum(), x)
    assert (gradient - expected).float().norm() < 4e-2 * expected.float().norm()
    with numerics("exact"), pytest.raises(RuntimeError, match="no gradient"):
        quantized_linear(x, weight)


def test_many_rows_go_to_the_device_s_own_product_unless_numerics_are_exact():
    def choose(rows, numerics):
        return select("quantized_linear", {"rows": rows}, torch.bfloat16, "cuda", numerics).backend

    assert choose(1, "fast") == choose(1, "exact") == choose(4096, "exact") == "triton"
    assert choose(4096, "fast") == "torch"


def test_wrong_arguments_are_named(device):
    weight = HOLD["int4g32"](torch.randn(40, 96)).to(device)
    rows8 = HOLD["fp8"](torch.randn(40, 96)).to(device)
    x, bias = torch.randn(3, 96, device=device), torch.randn(40, device=device)
    x8, scales = cpu.quantize_rows(x)
    wrong = {
        "x": lambda: gpu.quantized_linear(x[:, :64], weight),
        "weight": lambda: gpu.quantized_linear(x, rows8),
        "weight.values": lambda: gpu.quantized_linear(x, replace(weight, values=weight.values.int())),
        "weight.scales": lambda: gpu.quantized_linear(x, replace(weight, scales=weight.scales[:, :3])),
        "weight.minima": lambda: gpu.quantized_linear(x, replace(weight, minima=weight.scales.t())),
        "weight.row_scales": lambda: gpu.quantized_linear(x, replace(weight, row_scales=bias[:7])),
        "bias": lambda: gpu.quantized_linear(x, weight, bias[:4]),
        "x_scales": lambda: gpu.scaled_linear(x8, scales[:2], rows8),
        "x's columns": lambda: gpu.quantize_rows(x[:, :0]),
    }
    for argument, call in wrong.items():
        with pytest.raises(ArgumentError, match="accepted") as raised:
            call()
        assert raised.value.argument == argument

"""The repaired interpreter against torch: the conversions and bfloat16 arithmetic that it gets wrong as it comes."""

import pytest
import torch

from kernels.arguments import interpreting

if not interpreting():
    pytest.skip("kernels run on a GPU here", allow_module_level=True)
triton = pytest.importorskip("triton")
tl = triton.language


@triton.jit
def _convert(source, target, count: tl.constexpr):
    index = tl.arange(0, count)
    tl.store(target + index, tl.load(source + index).to(target.dtype.element_ty))


@triton.jit
def _arithmetic(left, right, sums, products, largest, count: tl.constexpr):
    index = tl.arange(0, count)
    a, b = tl.load(left + index), tl.load(right + index)
    tl.store(sums + index, a + b)
    tl.store(products + index, a * b)
    tl.store(largest + index, tl.where(a > b, a, b))


@triton.jit
def _multiply(left, right, out, size: tl.constexpr):
    row, column = tl.arange(0, size)[:, None], tl.arange(0, size)[None, :]
    place = row * size + column
    tl.store(out + place, tl.dot(tl.load(left + place), tl.load(right + place), out_dtype=tl.float32))


@triton.jit
def _loop(bounds, out):
    total = 0
    for number in range(tl.load(bounds), tl.load(bounds + 1)):
        total += number
    tl.store(out, total)


@pytest.mark.parametrize("target", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16])
def test_conversions_round_to_nearest_even(source, target, device):
    torch.manual_seed(0)
    values = (torch.randn(1024) * torch.logspace(-3, 2, 1024)).to(source)
    out = torch.empty(1024, dtype=target)
    _convert[(1,)](values, out, 1024)
    most = torch.finfo(target).max
    assert torch.equal(out.float(), values.float().clamp(-most, most).to(target).float())


def test_bfloat16_arithmetic(device):
    torch.manual_seed(0)
    left, right = torch.randn(256).bfloat16(), torch.randn(256).bfloat16()
    sums, products, largest = (torch.empty(256, dtype=torch.bfloat16) for _ in range(3))
    _arithmetic[(1,)](left, right, sums, products, largest, 256)
    assert torch.equal(sums, left + right)
    assert torch.equal(products, left * right)
    assert torch.equal(largest, torch.maximum(left, right))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_products_of_matrices(dtype, device):
    torch.manual_seed(0)
    left, right = torch.randn(32, 32).to(dtype), torch.randn(32, 32).to(dtype)
    out = torch.empty(32, 32)
    _multiply[(1,)](left, right, out, 32)
    torch.testing.assert_close(out, left.float() @ right.float())


def test_loops_over_tensors(device):
    out = torch.zeros(1, dtype=torch.int32)
    _loop[(1,)](torch.tensor([3, 7], dtype=torch.int32), out)
    assert out.item() == 18

"""The exact product is the product, and a row has the same bits in any batch, at any place, on any threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from kernels import native
from kernels.linear import linear
from kernels.linear.exact import exact_linear
from kernels.linear.reference import linear_reference
from kernels.numerics import numerics

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler here")
VARIANTS = [variant.name for variant in native.usable_variants()]
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 3e-3}
SHAPES = [(1, 1, 1), (3, 5, 7), (17, 33, 31), (40, 70, 1024), (13, 6, 1100), (150, 9, 2500), (7, 300, 64)]


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def made(tokens, rows, columns, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((tokens, columns), (rows, columns), (rows,))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_product(shape, dtype, variant):
    x, weight, bias = made(*shape, dtype)
    for added in (None, bias):
        truth = linear_reference(x, weight, added)
        got = exact_linear(x, weight, added, variant=variant)
        assert got.dtype is dtype
        assert (got.double() - truth).norm() <= BOUNDS[dtype] * truth.norm()
        wide = exact_linear(x, weight, added, float32_out=True, variant=variant)
        assert wide.dtype is torch.float32
        assert (wide.double() - truth).norm() <= 1e-6 * truth.norm()
        assert torch.equal(wide.to(dtype), got)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.bfloat16]), variant=st.sampled_from(VARIANTS))
def test_a_row_has_the_same_bits_in_any_company(data, dtype, variant):
    rows, columns = data.draw(st.integers(1, 70), "rows"), data.draw(st.integers(1, 1300), "columns")
    x, weight, _ = made(150, rows, columns, dtype)
    torch.set_num_threads(1)
    whole = exact_linear(x, weight, variant=variant)
    torch.set_num_threads(data.draw(st.integers(1, 3), "threads"))
    start = data.draw(st.integers(0, 149), "start")
    stop = data.draw(st.integers(start + 1, 150), "stop")
    assert torch.equal(exact_linear(x[start:stop], weight, variant=variant), whole[start:stop])
    order = torch.tensor(data.draw(st.permutations(range(start, stop)), "order"))
    assert torch.equal(exact_linear(x[order], weight, variant=variant), whole[order])
    beside = torch.cat((torch.zeros(150, 3, dtype=dtype), x, torch.ones(150, 2, dtype=dtype)), 1)[:, 3 : 3 + columns]
    assert torch.equal(exact_linear(beside, weight, variant=variant), whole)
    first = data.draw(st.integers(0, rows - 1), "first")
    assert torch.equal(exact_linear(x, weight[first:], variant=variant), whole[:, first:])


def test_the_operator_is_torch_s_unless_exact_numerics_are_asked_for():
    x, weight, bias = made(5, 33, 577, torch.float32)
    assert torch.equal(linear(x, weight, bias), functional.linear(x, weight, bias))
    with numerics("exact"):
        assert torch.equal(linear(x, weight, bias), exact_linear(x, weight, bias))
        with numerics("fast"):
            assert torch.equal(linear(x, weight, bias), functional.linear(x, weight, bias))
    stacked = x.view(5, 1, 577).expand(5, 2, 577)
    with numerics("exact"):
        assert linear(stacked, weight, float32_out=True).shape == (5, 2, 33)
        assert linear(x[:0], weight).shape == (0, 33)


def test_what_is_not_finite_stays_so():
    x, weight, _ = made(3, 4, 40, torch.bfloat16)
    x[1, 7] = float("nan")
    got = exact_linear(x, weight)
    assert got[1].isnan().all() and got[[0, 2]].isfinite().all()


def test_what_it_does_not_compute_is_refused():
    x, weight, _ = made(3, 4, 40, torch.float32)
    with pytest.raises(TypeError, match="alike"):
        exact_linear(x.bfloat16(), weight)
    with pytest.raises(RuntimeError, match="no gradient"):
        exact_linear(x.requires_grad_(), weight)

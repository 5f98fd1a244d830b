"""Each function is the function, and a value's result does not depend on where the value stands."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import native, pointwise
from kernels.numerics import numerics
from kernels.pointwise.exact import FUNCTIONS, exact_pointwise
from kernels.pointwise.reference import REFERENCES
from kernels.swiglu import swiglu

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler here")
VARIANTS = [variant.name for variant in native.usable_variants()]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_it_is_the_function(function, variant):
    x = torch.cat((torch.linspace(-90, 90, 3001), torch.linspace(-1, 1, 500), torch.zeros(1)))
    truth = REFERENCES[function](x)
    got = exact_pointwise(function, x, variant=variant)
    assert torch.allclose(got.double(), truth, rtol=2e-6, atol=1e-9 if function == "gelu_tanh" else 1e-35)
    halves = exact_pointwise(function, x.bfloat16(), variant=variant)
    truth = REFERENCES[function](x.bfloat16())
    assert torch.allclose(halves.double(), truth, rtol=2**-8, atol=1e-9)
    assert exact_pointwise(function, torch.tensor([float("nan"), 1.0]), variant=variant).isnan().tolist() == [
        True,
        False,
    ]


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    function=st.sampled_from(FUNCTIONS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    variant=st.sampled_from(VARIANTS),
)
def test_a_value_has_the_same_bits_anywhere(data, function, dtype, variant):
    columns, rows = data.draw(st.integers(1, 67), "columns"), data.draw(st.integers(1, 20), "rows")
    x = torch.randn(rows, 2 * columns, generator=torch.Generator().manual_seed(columns)).to(dtype)
    whole = exact_pointwise(function, x, variant=variant)
    assert torch.equal(exact_pointwise(function, x[:, columns:], variant=variant), whole[:, columns:])
    assert torch.equal(exact_pointwise(function, x[rows // 2], variant=variant), whole[rows // 2])
    assert torch.equal(exact_pointwise(function, x.T, variant=variant), whole.T)
    gated = exact_pointwise(function, x[:, :columns], x[:, columns:], variant=variant)
    alone = exact_pointwise(function, x[-1:, :columns].clone(), x[-1:, columns:].clone(), variant=variant)
    assert torch.equal(gated[-1:], alone)


def test_the_operators_are_ours_under_exact_numerics():
    x = torch.randn(3, 37)
    for function in FUNCTIONS:
        assert torch.allclose(getattr(pointwise, function)(x).double(), REFERENCES[function](x), rtol=1e-5, atol=1e-6)
        with numerics("exact"):
            assert torch.equal(getattr(pointwise, function)(x), exact_pointwise(function, x))
    with numerics("exact"):
        assert torch.equal(swiglu(x, x), exact_pointwise("silu", x, x))


def test_torch_s_own_is_not_like_that():
    """The reason for this kernel; if torch changes, it may go."""
    x = torch.randn(64, 259)
    whole = torch.sigmoid(x)
    assert not all(torch.equal(torch.sigmoid(x[:count]), whole[:count]) for count in range(1, 64))


def test_elsewhere_than_on_a_cpu_they_are_torch_s():
    x = torch.empty(3, 5, device="meta")
    with numerics("exact"):
        assert all(getattr(pointwise, function)(x).is_meta for function in FUNCTIONS)

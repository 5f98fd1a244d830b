"""The exact softmax and log-sum-exp are themselves, and rows do not know each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import native
from kernels.numerics import numerics
from kernels.softmax import log_sum_exp, softmax
from kernels.softmax.reference import log_sum_exp_reference, softmax_reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler here")


@pytest.mark.parametrize("width", [1, 5, 16, 259, 4099])
@pytest.mark.parametrize("kind", ["fast", "exact"])
def test_they_are_what_they_are_called(width, kind):
    x = torch.randn(9, width) * 4
    with numerics(kind):
        assert torch.allclose(softmax(x).double(), softmax_reference(x), rtol=3e-6, atol=1e-9)
        assert torch.allclose(log_sum_exp(x).double(), log_sum_exp_reference(x), rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 300), rows=st.integers(1, 40), at=st.integers(0, 39))
def test_a_row_has_the_same_bits_in_any_batch(width, rows, at):
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(width))
    at = at % rows
    with numerics("exact"):
        shares, sums = softmax(x), log_sum_exp(x)
        assert torch.equal(softmax(x[at]), shares[at])
        assert torch.equal(log_sum_exp(x[at : at + 1]), sums[at : at + 1])
        strided = torch.cat((x, x), 1)[:, :width]
        assert torch.equal(softmax(strided), shares) and torch.equal(log_sum_exp(strided), sums)


def test_masked_and_broken_values():
    x = torch.tensor([[0.0, -torch.inf, 0.0], [1.0, float("nan"), 2.0]])
    with numerics("exact"):
        assert softmax(x)[0].tolist() == [0.5, 0.0, 0.5]
        assert softmax(x)[1].isnan().all() and log_sum_exp(x).isnan().tolist() == [False, True]

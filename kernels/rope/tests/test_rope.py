"""Against float64."""

import pytest
import torch

from kernels import native
from kernels.numerics import numerics
from kernels.rope import apply_rope, rope_tables
from kernels.rope.exact import exact_angles
from kernels.rope.reference import rope_reference


def case(tokens, heads, width, start=0):
    generator = torch.Generator().manual_seed(tokens * width)
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2).float() / width)
    positions = torch.randint(start, start + 50, (tokens,), generator=generator)
    return torch.randn(tokens, heads, width, generator=generator), positions, frequencies


@pytest.mark.parametrize(("tokens", "heads", "width"), [(1, 1, 2), (5, 3, 64), (17, 9, 10)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_equals_the_reference(tokens, heads, width, dtype, tolerance):
    values, positions, frequencies = case(tokens, heads, width)
    values = values.to(dtype)
    turned = apply_rope(values, *rope_tables(positions, frequencies, dtype))
    expected = rope_reference(values, positions, frequencies)
    torch.testing.assert_close(turned.double(), expected, atol=tolerance, rtol=tolerance)


def test_scores_depend_on_distance_alone():
    values, _, frequencies = case(2, 1, 64)
    scores = []
    for shift in (0, 1000):
        positions = torch.tensor([3, 11]) + shift
        query, key = apply_rope(values, *rope_tables(positions, frequencies, torch.float32))[:, 0]
        scores.append(query @ key)
    torch.testing.assert_close(scores[0], scores[1], atol=1e-3, rtol=0)


def test_gradient():
    values, positions, frequencies = case(3, 2, 6)
    tables = rope_tables(positions, frequencies, torch.float64)
    assert torch.autograd.gradcheck(lambda heads: apply_rope(heads, *tables), values.double().requires_grad_())


@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
def test_under_exact_numerics_a_position_has_one_table():
    positions, frequencies = torch.arange(4000), 10000.0 ** -(torch.arange(20) / 20)
    cosine, sine = exact_angles(positions, frequencies)
    angles = (positions[:, None].float() * frequencies).double()
    assert torch.allclose(cosine.double(), angles.cos(), atol=1e-6)
    assert torch.allclose(sine.double(), angles.sin(), atol=1e-6)
    for at in (0, 3, 3999):
        alone = exact_angles(positions[at : at + 1], frequencies)
        assert torch.equal(alone[0][0], cosine[at]) and torch.equal(alone[1][0], sine[at])
    with numerics("exact"):
        tables = rope_tables(positions, frequencies, torch.float32)
    assert torch.equal(tables[0][:, 0, :20], cosine) and torch.equal(tables[1][:, 0, 20:], sine)

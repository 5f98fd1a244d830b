"""A layer's mixture of experts through the Triton kernels is the one that torch computes, expert by expert."""

import pytest
import torch

from engine.models.few_bits import FewBitsLinear
from engine.models.gpt_oss import LIMITED_GATE
from engine.models.layer import Layer, Slot
from engine.models.mixture import mixture
from kernels.arguments import interpreting
from kernels.grouped_moe import SWIGLU, route
from kernels.registry import preferring

pytest.importorskip("triton")
DEVICE = "cpu" if interpreting() else "cuda"
EXPERTS, HIDDEN, FFN = 5, 64, 32


@pytest.fixture(scope="module", autouse=True)
def repaired():
    if interpreting():
        from kernels.testing.interpreter import install

        install()


def made(bias):
    """A layer's experts with random weights, and tokens that go to three of the five each."""
    shapes = {"experts_gate_up": (EXPERTS, 2 * FFN, HIDDEN), "experts_down": (EXPERTS, HIDDEN, FFN)}
    if bias:
        shapes |= {f"{name}_bias": shape[:2] for name, shape in shapes.items()}
    slots = {name: Slot(shape, (name,)) for name, shape in shapes.items()}
    layer = Layer(0, "full", slots, torch.float32, torch.device(DEVICE))
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        getattr(layer, name).copy_(torch.randn(shape, generator=generator) * 0.2)
    inputs, scores = (torch.randn(11, width, generator=generator).to(DEVICE) for width in (HIDDEN, EXPERTS))
    return layer, inputs, scores


@pytest.mark.parametrize(("unit", "bias"), [(SWIGLU, False), (LIMITED_GATE, True)], ids=["swiglu", "limited"])
def test_triton_and_torch_agree(unit, bias):
    layer, inputs, scores = made(bias)
    weights, chosen = route(scores, 3, True)
    with preferring("torch"):
        expected = mixture(layer, inputs, chosen, weights, unit)
    with preferring("triton"):
        assert torch.equal(route(scores, 3, True)[1], chosen)
        ours = mixture(layer, inputs, chosen, weights, unit)
    assert not torch.equal(ours, expected), "another kernel, another order of sums"
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_experts_in_few_bits_are_products_of_their_own():
    layer, inputs, scores = made(False)
    weights, chosen = route(scores, 3, True)
    expected = mixture(layer, inputs, chosen, weights)
    for name in ("experts_gate_up", "experts_down"):
        for expert, weight in enumerate(getattr(layer, name)):
            layer.packed[name, expert] = FewBitsLinear.rounded(weight.cpu(), 8).to(torch.device(DEVICE))
        setattr(layer, name, torch.empty(EXPERTS, 0))
    torch.testing.assert_close(mixture(layer, inputs, chosen, weights), expected, rtol=0.1, atol=0.05)

"""The Triton kernels: against float64, through autograd, wrong arguments by name, and the bits that decoding has."""

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.attention_spec import AttentionSpec
from kernels.causal_attention import causal_attention
from kernels.causal_attention import gpu as launch
from kernels.numerics import numerics
from kernels.paged_attention import paged_attention, plan_batch
from kernels.registry import preferring
from kernels.spec import Maker
from kernels.testing.check import check, problems


@pytest.mark.parametrize(("spec", "case"), problems("causal_attention"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


@pytest.mark.parametrize(("prefix", "lengths"), [(0, [9, 15]), (4, [9, 11]), (8, [5, 0, 11]), (24, [])])
def test_the_operator_differentiates(prefix, lengths, device, monkeypatch):
    """With a common prefix too; slices of one projection's output are taken as they lie."""
    maker = Maker(device)
    projected = maker.normal(24, 4, 16, dtype=torch.float32).requires_grad_()
    weights = maker.normal(24, 2, 16, dtype=torch.float32)
    spec = AttentionSpec(0.3, 7, torch.tensor([0.5, -1.0], device=device))

    def gradient():
        three = projected[:, :2], projected[:, 2:3], projected[:, 3:]
        result = causal_attention(*three, lengths, prefix, spec)
        with torch.no_grad():
            assert torch.equal(causal_attention(*three, lengths, prefix, spec), result)
        return result, torch.autograd.grad((result * weights).sum(), projected)[0]

    with preferring("triton"), monkeypatch.context() as patched:
        patched.setattr("kernels.causal_attention.cpu.causal_attention", None)
        ours = gradient()
    for mine, truth in zip(ours, gradient(), strict=True):
        torch.testing.assert_close(mine, truth)


@pytest.mark.parametrize("window", [None, 30])
def test_under_exact_numerics_a_token_has_the_bits_that_it_has_decoded(window, device):
    maker = Maker(device)
    query, key, value = (maker.normal(100, heads, 64) for heads in (4, 2, 2))
    spec = AttentionSpec(0.2, window)
    with preferring("triton"), numerics("exact"):
        packed = causal_attention(query, key, value, [60, 40], spec=spec)
        # Keys and values of the second sequence, in pages of ten tokens.
        pages = torch.stack([side[60:].transpose(0, 1).reshape(2, 4, 10, 64) for side in (key, value)])
        for end in (1, 23, 40):
            plan = plan_batch([1], [end], [[0, 1, 2, 3]], 10, device)
            assert torch.equal(paged_attention(query[59 + end : 60 + end], pages, plan, spec)[0], packed[59 + end])


def test_no_sum_depends_on_the_neighbours(device):
    """A segment's gradients have the same bits alone and behind another one."""
    maker = Maker(device)
    three = [maker.normal(50, heads, 32) for heads in (2, 1, 1)]
    weights = maker.normal(50, 2, 32)

    def gradients(rows, lengths):
        own = [tensor[rows].clone().requires_grad_() for tensor in three]
        with preferring("triton"):
            return torch.autograd.grad((causal_attention(*own, lengths) * weights[rows]).sum(), own)

    alone, beside = gradients(slice(20, 50), [30]), gradients(slice(0, 50), [20, 30])
    assert all(torch.equal(mine, theirs[20:]) for mine, theirs in zip(alone, beside, strict=True))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"query": torch.zeros(6, 3, 16)}, "query"),
        ({"query": torch.zeros(6, 4, 16, dtype=torch.float64)}, "query"),
        ({"key": torch.zeros(5, 2, 16)}, "key"),
        ({"value": torch.zeros(6, 1, 16)}, "value"),
        ({"segment_lengths": [4, 1]}, "segment_lengths"),
        ({"shared_prefix": -1}, "shared_prefix"),
        ({"shared_prefix": 2}, "segment_lengths"),
        ({"spec": AttentionSpec(0.0)}, "spec's scale"),
        ({"spec": AttentionSpec(1.0, None, torch.zeros(3))}, "sinks"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    fitting = {
        "query": torch.zeros(6, 4, 16),
        "key": torch.zeros(6, 2, 16),
        "value": torch.zeros(6, 2, 16),
        "segment_lengths": [4, 2],
        **change,
    }
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in fitting.items()}
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.causal_attention(**moved)
    assert raised.value.argument == argument

"""The Triton mixture of experts: against float64, sorting by properties, a token's bits in any batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.arguments import ArgumentError
from kernels.grouped_moe import GatedUnit, cpu, gpu, grouped_moe, route
from kernels.registry import preferring
from kernels.spec import Maker
from kernels.testing.check import check, problems
from kernels.tuned import forced, space


@pytest.mark.parametrize(("spec", "case"), problems("grouped_moe"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), experts=st.integers(1, 9), height=st.sampled_from([16, 64]))
def test_pairs_are_sorted_and_every_one_is_in_one_tile(device, data, experts, height):
    picked = data.draw(st.lists(st.integers(0, experts - 1), min_size=1, max_size=150))
    chosen = torch.tensor(picked, device=device)[:, None]
    with forced("sort_by_expert", {"BLOCK": 64, "BLOCK_M": height, "num_warps": 4}):
        tiles = gpu._sorted(chosen, experts)
    order, of_experts, firsts, lasts = (tensor.tolist() for tensor in tiles.tensors)
    assert order == chosen.flatten().argsort(stable=True).tolist()
    covered = []
    for expert, first, last in zip(of_experts, firsts, lasts, strict=True):
        places = range(first, min(first + height, last))
        assert all(picked[order[place]] == expert for place in places)
        covered += places
    assert covered == list(range(len(picked)))


def test_a_token_has_the_same_bits_in_any_batch_and_tile(device):
    maker = Maker(device)
    x, gate_up, down = maker.normal(80, 96), maker.normal(4, 128, 96, scale=0.1), maker.normal(4, 96, 64, scale=0.1)
    weights, chosen = cpu.route(maker.normal(80, 4, dtype=torch.float32), 2, True)
    whole = gpu.grouped_moe(x, gate_up, down, chosen, weights)
    for rows in (slice(0, 1), slice(7, 20)):
        assert torch.equal(gpu.grouped_moe(x[rows], gate_up, down, chosen[rows], weights[rows]), whole[rows])
    heights = {config["BLOCK_M"]: config for config in space("grouped_moe", "sort_by_expert")}
    assert len(heights) == 2
    for config in heights.values():
        with forced("sort_by_expert", config):
            assert torch.equal(gpu.grouped_moe(x, gate_up, down, chosen, weights), whole), config
    for kernel in ("expert_gate_up", "expert_down"):
        assert len({config["BLOCK_K"] for config in space("grouped_moe", kernel)}) == 1


def test_of_equal_scores_the_first_is_chosen(device):
    scores = torch.zeros(3, 20, device=device)
    scores[1, [4, 17]] = 1
    weights, chosen = gpu.route(scores, 3, True)
    assert chosen.tolist() == [[0, 1, 2], [4, 17, 0], [0, 1, 2]]
    torch.testing.assert_close(weights.sum(1), torch.ones(3, device=device))


def test_the_operator_goes_through_them_and_gives_torch_the_gradients(device):
    maker = Maker(device)
    x, gate_up, down = (maker.normal(*shape, dtype=torch.float32) for shape in ((6, 32), (3, 40, 32), (3, 32, 20)))
    scores = maker.normal(6, 3, dtype=torch.float32)
    with preferring("triton"):
        weights, chosen = route(scores, 2, False)
        ours = grouped_moe(x, gate_up, down, chosen, weights)
        assert grouped_moe(x.clone().requires_grad_(), gate_up, down, chosen, weights).requires_grad
        assert route(scores.clone().requires_grad_(), 2, False)[0].requires_grad
    assert torch.equal(chosen, cpu.route(scores, 2, False)[1])
    torch.testing.assert_close(ours, cpu.grouped_moe(x, gate_up, down, chosen, weights), rtol=1e-4, atol=1e-4)


def test_a_gated_unit_without_limits_is_swiglu():
    gate, up = torch.randn(2, 5, 8)
    torch.testing.assert_close(GatedUnit()(gate, up), GatedUnit(limit=100.0)(gate, up))
    assert GatedUnit(limit=0.5)(gate.abs() + 1, up.abs() + 1).unique().numel() == 1


def test_wrong_arguments_are_named(device):
    fitting = {
        "x": torch.zeros(4, 8),
        "gate_up": torch.zeros(3, 12, 8),
        "down": torch.zeros(3, 8, 6),
        "chosen": torch.zeros(4, 2, dtype=torch.int64),
        "weights": torch.zeros(4, 2),
    }
    wrong = {
        "x": torch.zeros(4, 8, dtype=torch.float64),
        "gate_up": torch.zeros(3, 10, 8),
        "down": torch.zeros(3, 6, 8).transpose(1, 2),
        "chosen": torch.zeros(4, 2, dtype=torch.int32),
        "weights": torch.zeros(4, 3),
        "gate_up_bias": torch.zeros(3, 6),
        "down_bias": torch.zeros(2, 8),
    }
    for argument, value in wrong.items():
        moved = {name: tensor.to(device) for name, tensor in {**fitting, argument: value}.items()}
        with pytest.raises(ArgumentError, match="accepted") as raised:
            gpu.grouped_moe(**moved)
        assert raised.value.argument == argument
    with pytest.raises(ArgumentError, match="each"):
        gpu.route(torch.zeros(2, 3, device=device), 4, True)

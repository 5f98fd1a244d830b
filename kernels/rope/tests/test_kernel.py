"""The Triton kernels: against float64, wrong arguments by name, pages as the torch path writes them, padding rows."""

import dataclasses

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.paged_attention import plan_batch, turn_and_write, write_pages
from kernels.paged_attention.gpu import write_pages as write_alone
from kernels.registry import preferring
from kernels.rope import apply_rope, rope_paged_write, rope_tables
from kernels.rope import gpu as launch
from kernels.rope.cpu import rope_paged_write as in_torch
from kernels.spec import Maker
from kernels.testing.check import check, problems

FP8 = torch.float8_e4m3fn


def tables(tokens, width, dtype, device):
    positions = torch.arange(tokens, device=device) * 3
    return rope_tables(positions, 10_000.0 ** (-torch.arange(0, width, 2, device=device) / width), dtype)


def step(device, tokens=6, dtype=torch.float32, cache=torch.float32, width=16):
    maker = Maker(device)
    return {
        "query": maker.normal(tokens, 4, width, dtype=dtype),
        "key": maker.normal(tokens, 2, width, dtype=dtype),
        "value": maker.normal(tokens, 2, width, dtype=dtype),
        **dict(zip(("cosine", "signed_sine"), tables(tokens, width, dtype, device), strict=True)),
        "slots": maker.permutation(12, dtype=torch.int64)[:tokens],
        "pages": maker.normal(2, 2, 3, 4, width, dtype=cache),
    }


@pytest.mark.parametrize(("spec", "case"), problems("rope"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


@pytest.mark.parametrize("heads", [1, 7, 20])
def test_a_token_has_the_same_bits_in_any_batch(heads, device):
    values = Maker(device).normal(9, heads, 48)
    both = tables(9, 48, torch.bfloat16, device)
    whole, back = launch.rope(values, *both), launch.rope_backward(values, *both)
    for rows in (slice(0, 1), slice(3, 6)):
        part = [table[rows] for table in both]
        assert torch.equal(launch.rope(values[rows], *part), whole[rows])
        assert torch.equal(launch.rope_backward(values[rows], *part), back[rows])


def test_the_way_back_undoes_the_turn(device):
    values = Maker(device).normal(5, 3, 64, dtype=torch.float32)
    both = tables(5, 64, torch.float32, device)
    torch.testing.assert_close(launch.rope_backward(launch.rope(values, *both), *both), values)


def test_the_operator_goes_through_them_forward_and_backward(device):
    wide = Maker(device).normal(5, 4, 40, dtype=torch.float32).requires_grad_()
    both = tables(5, 24, torch.float32, device)
    found = []
    for backend in ("triton", "torch"):
        with preferring(backend):
            turned = apply_rope(wide[:, 1:, :24], *both)
            found.append((turned, *torch.autograd.grad(turned.square().cumsum(2).sum(), wide)))
    for ours, truth in zip(*found, strict=True):
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("turned", [16, 10])
def test_a_step_s_heads_are_turned_and_stored_in_one_launch_unless_only_their_beginning_turns(
    turned, device, monkeypatch
):
    given, kernels = step(device), []
    for name in ("rope", "rope_paged_write"):
        monkeypatch.setattr(launch, f"{name}_kernel", Counted(name, getattr(launch, f"{name}_kernel"), kernels))
    heads, turns = (given["query"], given["key"], given["value"]), tables(6, turned, torch.float32, device)
    found = []
    for backend in ("torch", "triton"):
        pages = given["pages"].clone()
        with preferring(backend):
            plan = plan_batch([2, 4], [5, 4], [[2, 0], [1]], 4, device)
            plan = plan if backend == "triton" else dataclasses.replace(plan, tables=None)
            found.append((turn_and_write(*heads, turns, pages, plan), pages))
    assert kernels == (["rope_paged_write"] if turned == 16 else ["rope", "rope"])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not torch.equal(found[0][1], given["pages"])


class Counted:
    """A kernel that writes down its launches."""

    def __init__(self, name, kernel, launched):
        self._name, self._kernel, self._launched = name, kernel, launched

    def __getitem__(self, grid):
        self._launched.append(self._name)
        return self._kernel[grid]


def test_pages_are_written_as_the_two_operators_in_a_row_do(device):
    given = step(device)
    plan = plan_batch([2, 4], [5, 4], [[2, 0], [1]], 4, device)
    given["slots"], after = plan.slots, given["pages"].clone()
    write_pages(after, apply_rope(given["key"], given["cosine"], given["signed_sine"]), given["value"], plan)
    with preferring("triton"):
        turned = rope_paged_write(**given)
    torch.testing.assert_close(turned, apply_rope(given["query"], given["cosine"], given["signed_sine"]))
    torch.testing.assert_close(given["pages"], after)


def test_eight_bits_are_those_of_the_write_alone(device):
    given, scales = step(device, cache=FP8), Maker(device).normal(2, 2, dtype=torch.float32).abs() + 0.1
    after = given["pages"].clone()
    turned = launch.rope(given["key"], given["cosine"], given["signed_sine"])
    write_alone(turned, given["value"], after, given["slots"], scales)
    launch.rope_paged_write(**given, scales=scales)
    torch.testing.assert_close(given["pages"].float(), after.float(), rtol=0.13, atol=0)
    assert torch.equal(given["pages"][1].view(torch.uint8), after[1].view(torch.uint8))


@pytest.mark.parametrize("write", [launch.rope_paged_write, in_torch])
def test_padding_rows_go_nowhere(write, device):
    given, shorter = step(device), step(device)
    given["slots"][[0, 3]] = -1
    kept = torch.tensor([1, 2, 4, 5], device=device)
    for name in shorter.keys() - {"pages", "query"}:
        shorter[name] = given[name][kept]
    shorter["query"] = given["query"][kept]
    turned = write(**given)
    assert torch.equal(turned[kept], write(**shorter))
    assert torch.equal(given["pages"], shorter["pages"])
    assert turned.isfinite().all()


def test_eight_bits_saturate_and_scales_are_of_their_own_head_and_side(device):
    given = step(device, cache=FP8)
    given["value"] = torch.full_like(given["value"], 1000.0)
    given["value"][:, 1] = -8.0
    launch.rope_paged_write(**given, scales=torch.tensor([[1.0, 1.0], [0.5, 4.0]], device=device))
    written = given["pages"].float()[1].flatten(1, 2)[:, given["slots"]]
    assert written[0].unique().tolist() == [448.0]
    assert written[1].unique().tolist() == [-2.0]


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"query": torch.zeros(6, 4, 16, dtype=torch.float64)}, "query"),
        ({"query": torch.zeros(6, 4, 15)}, "query"),
        ({"query": torch.zeros(6, 64)}, "query"),
        ({"key": torch.zeros(5, 2, 16)}, "key"),
        ({"value": torch.zeros(6, 3, 16)}, "value"),
        ({"value": torch.zeros(6, 2, 32)[..., ::2]}, "value"),
        ({"cosine": torch.zeros(6, 16)}, "cosine"),
        ({"signed_sine": torch.zeros(6, 1, 16, dtype=torch.bfloat16)}, "signed_sine"),
        ({"slots": torch.zeros(6, dtype=torch.int32)}, "slots"),
        ({"slots": torch.zeros(7, dtype=torch.int64)}, "slots"),
        ({"pages": torch.zeros(2, 2, 3, 4, 16, dtype=torch.bfloat16)}, "pages"),
        ({"pages": torch.zeros(2, 2, 3, 16, 4).transpose(3, 4)}, "pages"),
        ({"scales": torch.ones(2, 1)}, "scales"),
        ({"pages": torch.zeros(2, 2, 3, 4, 16).to(FP8), "scales": torch.ones(2, 3)}, "scales"),
        ({"pages": torch.zeros(2, 2, 3, 4, 16).to(FP8), "scales": torch.ones(2, 1, device="meta")}, "scales"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    moved = {name: value if value.is_meta else value.to(device) for name, value in change.items()}
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.rope_paged_write(**{**step(device), **moved})
    assert raised.value.argument == argument

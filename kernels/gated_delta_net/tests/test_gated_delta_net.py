"""The C kernel and torch against float64, over any batch, any cut into steps and any states stored on the way."""

import random
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.gated_delta_net import (
    DeltaShape,
    DeltaWeights,
    gated_delta_net,
    native,
    new_states,
    plan_next_states,
    plan_states,
)
from kernels.gated_delta_net.cpu import _in_torch
from kernels.gated_delta_net.reference import gated_delta_net_reference
from kernels.native import library, usable_variants
from kernels.numerics import numerics

needs_compiler = pytest.mark.skipif(library() is None, reason="no C compiler here")
SHAPES = [
    DeltaShape(key_heads=1, value_heads=1, key_dim=2, value_dim=3, taps=2),
    DeltaShape(key_heads=2, value_heads=4, key_dim=8, value_dim=16, taps=4),
    DeltaShape(key_heads=2, value_heads=2, key_dim=5, value_dim=70, taps=3),
]
IMPLEMENTATIONS = {"torch": _in_torch, "chosen": gated_delta_net}


def layer(shape, tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=generator)

    weights = DeltaWeights(draw(shape.taps, shape.channels), draw(shape.value_heads).exp(), draw(shape.value_heads))
    return (draw(tokens, shape.channels), draw(tokens, shape.value_heads), draw(tokens, shape.value_heads)), weights


def step(compute, rows, weights, shape, states, parts):
    """One step over ``parts``: (sequence's rows to compute, slot, fresh, [(tokens before, slot)])."""
    picked = torch.cat([index for index, _, _, _ in parts])
    saves = [(i, after, slot) for i, (_, _, _, stored) in enumerate(parts) for after, slot in stored]
    plan = plan_states([len(p[0]) for p in parts], [p[1] for p in parts], [p[2] for p in parts], saves, shape)
    return compute(*(part[picked] for part in rows), weights, states.layer(0), plan)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_any_batch_and_any_cut_equal_the_reference(name, shape, lengths, seed):
    choose = random.Random(seed)
    compute, count = IMPLEMENTATIONS[name], len(lengths)
    rows, weights = layer(shape, sum(lengths))
    sequences = torch.arange(sum(lengths)).split(lengths)
    states = new_states(1, 2 * count, shape)
    states.memory.fill_(torch.nan)
    states.inputs.fill_(torch.nan)
    done, found, stored = [0] * count, [[] for _ in lengths], {}
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        parts, owners = [], []
        for i in range(count):
            take = choose.randint(0, lengths[i] - done[i])
            if take:
                after = choose.randint(0, take)
                parts.append(
                    (
                        sequences[i][done[i] : done[i] + take],
                        i,
                        done[i] == 0,
                        [(after, count + i)] if after else [],
                    )
                )
                owners.append(i)
                stored.update({i: done[i] + after} if after else {})
                done[i] += take
        if parts:
            out = step(compute, rows, weights, shape, states, parts)
            for i, piece in zip(owners, out.split([len(part[0]) for part in parts]), strict=True):
                found[i].append(piece)
    for i, index in enumerate(sequences):
        truth, inputs, memory = gated_delta_net_reference(*(part[index] for part in rows), weights, shape)
        torch.testing.assert_close(torch.cat(found[i]).double(), truth, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states.memory[0, i].double(), memory, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states.inputs[0, i].double(), inputs)
        if i in stored:
            some = [part[index[: stored[i]]] for part in rows]
            _, inputs, memory = gated_delta_net_reference(*some, weights, shape)
            torch.testing.assert_close(states.memory[0, count + i].double(), memory, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(states.inputs[0, count + i].double(), inputs)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_in_any_batch_and_any_cut(shape):
    rows, weights = layer(shape, 40)
    first, second = torch.arange(23), torch.arange(23, 40)
    alone = new_states(1, 1, shape)
    whole = step(gated_delta_net, rows, weights, shape, alone, [(first, 0, True, [])])
    mixed = new_states(1, 4, shape)
    pieces = [
        step(gated_delta_net, rows, weights, shape, mixed, [(second[:9], 2, True, []), (first[:1], 1, True, [])])[9:],
        step(
            gated_delta_net,
            rows,
            weights,
            shape,
            mixed,
            [(first[1:12], 1, False, [(4, 3)]), (second[9:], 2, False, [])],
        )[:11],
    ]
    torch.testing.assert_close(torch.cat(pieces), whole[:12], atol=0, rtol=0)
    mixed.copy([(1, 0), (3, 1)])
    resumed = step(
        gated_delta_net, rows, weights, shape, mixed, [(first[12:], 0, False, []), (first[5:], 1, False, [])]
    )
    torch.testing.assert_close(resumed[:11], whole[12:], atol=0, rtol=0)
    torch.testing.assert_close(resumed[11:], whole[5:], atol=0, rtol=0)
    assert torch.equal(mixed.memory[0, 0], alone.memory[0, 0])
    assert torch.equal(mixed.inputs[0, 1], alone.inputs[0, 0])


@needs_compiler
@pytest.mark.parametrize("variant", [variant.name for variant in usable_variants()])
def test_every_instruction_set_computes_the_same(variant, monkeypatch):
    kernels = library()
    monkeypatch.setattr(native, "library", lambda: type(kernels)(kernels.handle, variant))
    shape = SHAPES[1]
    rows, weights = layer(shape, 30)
    found = step(gated_delta_net, rows, weights, shape, new_states(1, 1, shape), [(torch.arange(30), 0, True, [])])
    truth = gated_delta_net_reference(*rows, weights, shape)[0]
    torch.testing.assert_close(found.double(), truth, atol=1e-5, rtol=1e-4)


def test_gradients_equal_the_references():
    shape = SHAPES[1]
    rows, weights = layer(shape, 12)
    both = [[part.clone().requires_grad_() for part in rows] for _ in range(2)]
    plan = plan_states([7, 5], [0, 1], [True, True], [], shape)
    gated_delta_net(*both[0], weights, new_states(1, 2, shape).layer(0), plan).square().sum().backward()
    for index in torch.arange(12).split([7, 5]):
        parts = [part[index].double() for part in both[1]]
        gated_delta_net_reference(*parts, weights, shape)[0].square().sum().backward()
    for mine, true in zip(*both, strict=True):
        torch.testing.assert_close(mine.grad, true.grad, atol=1e-3, rtol=1e-3)


def test_half_precision_goes_in_and_out():
    shape = SHAPES[1]
    rows, weights = layer(shape, 6)
    plan = plan_states([6], [0], [True], [], shape)
    out = gated_delta_net(*(part.bfloat16() for part in rows), weights, new_states(1, 1, shape).layer(0), plan)
    exact = gated_delta_net(
        *(part.bfloat16().float() for part in rows), weights, new_states(1, 1, shape).layer(0), plan
    )
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), atol=0, rtol=0)


def test_exact_numerics_never_fall_back_to_torch(monkeypatch):
    shape = SHAPES[1]
    rows, weights = layer(shape, 6)
    monkeypatch.setattr(native, "library", lambda: None)
    plan = plan_states([6], [0], [True], [], shape)
    with numerics("exact"), pytest.raises(RuntimeError, match="compiled kernels"):
        gated_delta_net(*rows, weights, new_states(1, 1, shape).layer(0), plan)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_of_one_token_each_is_planned_without_a_look(shape):
    slots = torch.tensor([4, 0, 3], dtype=torch.int32)
    ours, theirs = plan_next_states(slots, shape), plan_states([1] * 3, [4, 0, 3], [False] * 3, [], shape)
    assert ours.stores == theirs.stores == {}
    assert len(ours.rounds) == len(theirs.rounds) == 1
    names = [field.name for field in fields(ours) if isinstance(getattr(ours, field.name), torch.Tensor)]
    for mine, wanted in ((ours.rounds[0], theirs.rounds[0]), *((getattr(ours, n), getattr(theirs, n)) for n in names)):
        assert mine.dtype is wanted.dtype
        assert torch.equal(mine, wanted)
    assert plan_next_states(slots.to("meta"), shape).windows.is_meta

"""The Triton kernels: against the sorted rule in float64, one token in any batch, hostile rows, wrong arguments."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.arguments import ArgumentError
from kernels.registry import preferring
from kernels.sampling import cpu, sample
from kernels.sampling import gpu as launch
from kernels.sampling.reference import draw_sorted, sample_reference, uniform
from kernels.sampling.spec import problem
from kernels.spec import Maker
from kernels.testing.check import check, problems

NEAR = 1e-5
"""How far from a boundary, as a share of the mass, float32 weights may decide otherwise than float64."""


@pytest.mark.parametrize(("spec", "case"), problems("sampling"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


def arguments_of(logits, ways, seeds, device):
    """ways: (temperature, top-k, top-p, min-p) per row."""
    temperatures, top_ks, top_ps, min_ps = zip(*ways, strict=True)
    return {
        "logits": logits.to(device),
        "temperatures": torch.tensor(temperatures, dtype=torch.float32, device=device),
        "top_ks": torch.tensor(top_ks, dtype=torch.int32, device=device),
        "top_ps": torch.tensor(top_ps, dtype=torch.float64, device=device),
        "min_ps": torch.tensor(min_ps, dtype=torch.float32, device=device),
        "seeds": torch.tensor(seeds, dtype=torch.int64, device=device),
        "positions": torch.arange(len(seeds), device=device),
    }


def assert_follows_the_rule(arguments, tokens):
    """Each token is what the sorted rule gives, for the number drawn or one within rounding of it."""
    draws = uniform(arguments["seeds"], arguments["positions"])
    rest = {name: value for name, value in arguments.items() if name not in ("seeds", "positions")}
    fine = torch.zeros(len(tokens), dtype=torch.bool)
    for shift in (0.0, -NEAR, NEAR):
        for slack in (0.0, -NEAR, NEAR):
            moved = {**rest, "top_ps": torch.where(rest["top_ps"] < 1, rest["top_ps"] + slack, 1.0)}
            moved["min_ps"] = rest["min_ps"] * (1 + slack)
            fine |= draw_sorted(**moved, draws=(draws + shift).clamp(0, 1 - 1e-12))[0] == tokens
    assert fine.all(), f"rows {(~fine).nonzero().flatten().tolist()}"


ways = st.tuples(
    st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    st.sampled_from([0, 0, 1, 3, 40, 5000]),
    st.sampled_from([1.0, 0.95, 0.5, 0.05, 0.0]),
    st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.0]),
)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.lists(st.tuples(ways, st.integers(-(2**63), 2**63 - 1)), min_size=4, max_size=4),
    width=st.sampled_from([1, 2, 33, 900]),
    scale=st.sampled_from([0.0, 0.2, 4.0, 60.0]),
    ties=st.booleans(),
    forbidden=st.sampled_from([0.0, 0.5, 0.98]),
    seed=st.integers(0, 1000),
)
def test_every_draw_follows_the_sorted_rule(rows, width, scale, ties, forbidden, seed, device):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(rows), width, generator=generator) * scale
    logits = logits.round() if ties else logits
    closed = torch.rand(len(rows), width, generator=generator) < forbidden
    closed[:, 0] = False
    arguments = arguments_of(logits.masked_fill(closed, -torch.inf), *zip(*rows, strict=True), device)
    tokens, logprobs, shaped = (found.cpu() for found in launch.sample(**arguments))
    arguments = {name: value.cpu() for name, value in arguments.items()}
    assert_follows_the_rule(arguments, tokens)
    assert not closed.gather(1, tokens.unsqueeze(1)).any()
    torch.testing.assert_close(logprobs, logits.masked_fill(closed, -torch.inf).log_softmax(-1)[range(4), tokens])
    assert (shaped <= 1e-6).all()


def test_equals_are_taken_in_the_order_of_their_ids(device):
    """Logits of few values, so that the number drawn and the cuts fall among equals."""
    arguments = problem(8, 40, scale=1.5).make(Maker(device))
    arguments["logits"] = arguments["logits"].round()
    arguments["temperatures"] += 0.5
    arguments["top_ks"] = torch.full_like(arguments["top_ks"], 17)
    ours, theirs = launch.sample(**arguments), sample_reference(**arguments)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[2].double(), theirs[2], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_many_rows_agree_with_the_portable_code(device):
    """Other tokens only where the number drawn is within rounding of a boundary: hardly ever."""
    arguments = problem(1200, 700).make(Maker(device))
    tokens, logprobs, _ = launch.sample(**arguments)
    theirs = cpu.sample(**arguments)
    assert (tokens == theirs[0]).float().mean() > 0.998
    same = tokens == theirs[0]
    torch.testing.assert_close(logprobs[same], theirs[1][same])
    assert_follows_the_rule({name: value.cpu() for name, value in arguments.items()}, tokens.cpu())


def test_a_row_draws_the_same_in_any_batch(device):
    arguments = problem(8, 1100).make(Maker(device))
    whole = launch.sample(**arguments)
    for rows in ([5], [7, 2, 4]):
        part = launch.sample(**{name: value[rows].contiguous() for name, value in arguments.items()})
        assert all(torch.equal(ours, theirs[rows]) for ours, theirs in zip(part, whole, strict=True))


def test_rows_that_are_not_finite_say_so_and_do_not_disturb_others(device):
    arguments = problem(8, 60).make(Maker(device))
    expected = [found[7].item() for found in launch.sample(**arguments)]
    logits = arguments["logits"]
    logits[0, 3], logits[1, 4], logits[2, 5], logits[3], logits[4] = (
        torch.nan,
        torch.nan,
        torch.inf,
        -torch.inf,
        torch.nan,
    )
    tokens, logprobs, shaped = launch.sample(**arguments)
    assert logprobs.isnan().tolist() == shaped.isnan().tolist() == [True] * 5 + [False] * 3
    assert ((tokens >= 0) & (tokens < 60)).all()
    assert [tokens[7].item(), logprobs[7].item(), shaped[7].item()] == expected


@pytest.mark.parametrize("way", [(1.0, 0, 1.0, 0.0), (1.0, 0, 0.9, 0.0), (0.5, 12, 1.0, 0.0)])
def test_tokens_come_as_often_as_they_should(way):
    """The rule itself, over many numbers: frequencies within five standard deviations of the shaped distribution."""
    draws, width = 20_000, 30
    logits = torch.randn(1, width, generator=torch.Generator().manual_seed(3)) * 2
    arguments = arguments_of(logits.expand(draws, -1), [way] * draws, [11] * draws, "cpu")
    tokens, _, shaped = cpu.sample(**arguments)
    counts = torch.bincount(tokens, minlength=width).double()
    for token in tokens.unique().tolist():
        share = math.exp(shaped[tokens == token][0])
        assert abs(counts[token] - draws * share) < 5 * math.sqrt(draws * share) + 1


def test_the_operator_goes_through_them(device):
    arguments = problem(8, 90).make(Maker(device))
    with preferring("triton"):
        ours = sample(**arguments)
    theirs = sample(**arguments)
    assert torch.equal(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.shaped_logprobs, theirs.shaped_logprobs)


def test_the_random_numbers_are_philox(device):
    """Known answers of Philox-4x32-10: counter and key zero, and all ones."""
    zero = uniform(torch.tensor([0]), torch.tensor([0]))
    assert zero.item() == ((0x6627E8D5 << 21) ^ (0xE169C58D >> 11)) * 2.0**-53
    several = uniform(torch.tensor([-1, 7, 2**40 + 3]), torch.tensor([5, 2**33, 0]))
    assert len(np.unique(several.numpy())) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logits", torch.zeros(2, 8, dtype=torch.float64)),
        ("logits", torch.zeros(8)),
        ("logits", torch.zeros(8, 2).t()),
        ("temperatures", torch.zeros(2, dtype=torch.float64)),
        ("temperatures", torch.zeros(3)),
        ("top_ks", torch.zeros(2, dtype=torch.int64)),
        ("top_ps", torch.zeros(2, dtype=torch.int32)),
        ("min_ps", torch.zeros(4)[::2]),
        ("seeds", torch.zeros(2, dtype=torch.int32)),
        ("positions", torch.zeros(2, dtype=torch.int64, device="meta")),
    ],
)
def test_wrong_arguments_are_named(name, value, device):
    fitting = arguments_of(torch.zeros(2, 8), [(1.0, 0, 1.0, 0.0)] * 2, [0, 0], device)
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.sample(**{**fitting, name: value if value.is_meta else value.to(device)})
    assert raised.value.argument == name

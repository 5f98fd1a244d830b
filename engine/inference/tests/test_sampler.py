"""Sampling: the random numbers are Philox, the distributions are right, and rows do not see each other."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.inference.philox import derive_seed, philox, uniform
from engine.inference.request import SamplingParams
from engine.inference.sampler import draw, draw_tokens
from fw_sdk.types import FwError
from kernels.arguments import interpreting
from kernels.registry import preferring
from kernels.sampling import sample


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, expected):
    words = philox(np.array(counter, np.uint64)[:, None], np.array(key, np.uint64)[:, None])
    assert words[:, 0].tolist() == expected


def test_uniform_is_uniform_along_positions_and_along_seeds():
    n = 20000
    for seeds, positions in ((np.full(n, 7), np.arange(n)), (np.arange(n) - n // 2, np.full(n, 3))):
        values = uniform(seeds.astype(np.int64), positions.astype(np.int64))
        assert values.min() >= 0
        assert values.max() < 1
        assert stats.kstest(values, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


def test_derived_seeds_differ_and_the_first_is_the_seed():
    assert derive_seed(5, 0) == 5
    seeds = {derive_seed(seed, stream) for seed in (-1, 0, 5) for stream in range(50)}
    assert len(seeds) == 150
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)


def expected_distribution(logits, item):
    """The same rules, one token at a time, in float64."""
    scaled = logits.double() / item.temperature
    order = sorted(range(len(scaled)), key=lambda i: (-scaled[i].item(), i))
    weights = {i: math.exp(scaled[i] - scaled[order[0]]) for i in order}
    kept = order[: item.top_k or len(order)]
    if item.top_p < 1:
        total, below, survivors = sum(weights[i] for i in kept), 0.0, []
        for i in kept:
            if below < item.top_p * total:
                survivors.append(i)
            below += weights[i]
        kept = survivors
    kept = [i for i in kept if weights[i] >= item.min_p] or order[:1]
    total = sum(weights[i] for i in kept)
    return {i: weights[i] / total for i in kept}


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 2**31),
    st.sampled_from([5, 300, 5001]),
    st.sampled_from([0, 1, 3, 100, 200, 10**6]),
    st.sampled_from([1.0, 0.999999, 0.9, 0.3, 1e-6]),
    st.sampled_from([0.0, 0.02, 1.0]),
    st.sampled_from([0.3, 1.0, 5.0]),
)
def test_draws_follow_the_distribution(seed, vocabulary, top_k, top_p, min_p, temperature):
    item = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * 2
    expected = expected_distribution(logits, item)
    n = 400
    drawn = draw(logits.expand(n, -1), [item] * n, range(n)).tokens
    assert set(drawn) <= set(expected)
    # Kolmogorov-Smirnov on the place in the expected order, with a bound that a right sampler passes in 1 - 1e-9.
    places = {token: place for place, token in enumerate(sorted(expected))}
    counts = np.bincount([places[token] for token in drawn], minlength=len(expected)).cumsum() / n
    truth = np.cumsum([expected[token] for token in sorted(expected)])
    assert np.abs(counts - truth).max() < math.sqrt(math.log(2e9) / 2 / n)


@pytest.mark.parametrize("top_p", [1.0, 0.97])
def test_more_than_the_first_candidates_are_kept_where_top_k_says_so(top_p):
    item = SamplingParams(temperature=1.0, top_k=300, top_p=top_p, seed=1)
    logits = torch.linspace(1, 0, 5001)
    kept = set(expected_distribution(logits, item))
    drawn = set(draw(logits.expand(2000, -1), [item] * 2000, range(2000)).tokens)
    assert drawn <= kept
    assert len(drawn) > 0.95 * len(kept) > 250


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_k=st.sampled_from([0, 4, 300]),
    top_p=st.sampled_from([1.0, 0.9, 0.05]),
    min_p=st.sampled_from([0.0, 0.1]),
    seed=st.integers(-(2**63), 2**63 - 1),
    logprobs=st.sampled_from([None, 0, 3]),
)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(PARAMS, st.integers(0, 10000), st.integers(0, 99)), min_size=1, max_size=8))
def test_a_row_alone_draws_what_it_draws_in_a_batch(rows):
    # Coarse values give ties, as bfloat16 does.
    logits = torch.stack(
        [torch.randn(5000, generator=torch.Generator().manual_seed(s)).mul(4).round() / 2 for *_, s in rows]
    )
    together = draw(logits, [item for item, *_ in rows], [position for _, position, _ in rows])
    for row, (item, position, _) in enumerate(rows):
        alone = draw(logits[row : row + 1], [item], [position])
        assert alone.tokens == [together.tokens[row]]
        one, other = alone.logprobs[0], together.logprobs[row]
        assert (one is None) == (other is None) == (item.logprobs is None)
        if one is not None:
            assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
            assert len(one.top) == item.logprobs


def kernel_tokens(logits, params, positions):
    """What the kernels' operator draws for the same rows."""
    columns = {
        "temperatures": ("temperature", torch.float32),
        "top_ks": ("top_k", torch.int32),
        "top_ps": ("top_p", torch.float64),
        "min_ps": ("min_p", torch.float32),
        "seeds": ("seed", torch.int64),
    }
    held = {
        name: torch.tensor([getattr(item, field) for item in params], dtype=dtype)
        for name, (field, dtype) in columns.items()
    }
    return sample(logits, **held, positions=torch.tensor(positions)).tokens.tolist()


def test_the_kernels_draw_the_same_tokens():
    """The portable operator on thousands of rows, the Triton kernels in their interpreter on some of them."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3000, 300, generator=generator) * 4
    kinds = [(1.0, 0, 1.0, 0.0), (0.7, 20, 1.0, 0.0), (1.0, 0, 0.9, 0.0), (1.4, 60, 0.8, 0.02), (0.9, 0, 1.0, 0.1)]
    params = [
        SamplingParams(temperature=t, top_k=k, top_p=p, min_p=m, seed=row * 7919 - 10**12)
        for row, (t, k, p, m) in enumerate(kinds * 600)
    ]
    positions = [row * row for row in range(3000)]
    expected = draw_tokens(logits, params, positions)
    assert np.mean(np.equal(kernel_tokens(logits, params, positions), expected)) > 0.999
    if interpreting():
        pytest.importorskip("triton")
        from kernels.testing.interpreter import install

        install()
        with preferring("triton"):
            assert kernel_tokens(logits[:40], params[:40], positions[:40]) == expected[:40]


def test_logprobs_are_those_of_the_model_whatever_the_temperature():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    truth = torch.log_softmax(logits.double(), -1)
    drawn = draw(logits, [SamplingParams(temperature=t, logprobs=5, top_k=3) for t in (0.0, 0.5, 2.0)], [0, 1, 2])
    for row, found in enumerate(drawn.logprobs):
        assert found.token_id == drawn.tokens[row]
        assert found.logprob == pytest.approx(truth[row, found.token_id].item(), abs=1e-5)
        best = truth[row].topk(5)
        assert [token for token, _ in found.top] == best.indices.tolist()
        assert [value for _, value in found.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_small_temperatures_still_draw_and_the_smallest_take_the_best():
    logits = torch.zeros(200, 50)
    logits[:, 7] = 0.005
    assert len(set(draw(logits, [SamplingParams(temperature=0.01)] * 200, range(200)).tokens)) > 10
    coldest = draw(logits, [SamplingParams(temperature=1e-300)] * 200, range(200))
    assert set(coldest.tokens) == {7}
    assert all(coldest.valid)


def test_rows_that_are_not_finite_are_named():
    logits = torch.zeros(4, 300)
    logits[1, 7] = math.nan
    logits[2, 7] = math.inf
    logits[3, :-1] = -math.inf
    params = [SamplingParams(temperature=t, top_p=p) for t, p in ((0.0, 1.0), (1.0, 0.5), (1.0, 1.0), (1.0, 0.9))]
    drawn = draw(logits, params, [0] * 4)
    assert drawn.valid == [True, False, False, True]
    assert drawn.tokens[3] == 299


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_p", 2),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("seed", 2**63),
        ("logprobs", 21),
        ("stop", ("",)),
        ("stop", "word"),
        ("stop_token_ids", ("x",)),
    ],
)
def test_wrong_parameters_are_refused_by_name(field, value):
    with pytest.raises(FwError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.code == "invalid_argument"
    assert caught.value.param == field
    assert field in caught.value.message

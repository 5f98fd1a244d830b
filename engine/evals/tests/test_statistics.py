"""Statistics against scipy, their properties, and how often the intervals cover the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.evals import statistics
from fw_sdk.types import FwError, RowScore, Verdict

BINARY = st.sampled_from([0.0, 1.0])
GRADED = st.floats(0, 1).map(lambda value: round(value, 3))
REWARD = st.floats(-5, 5).map(lambda value: round(value, 3))
PAIRS = st.one_of(*(st.lists(st.tuples(kind, kind), min_size=1, max_size=40) for kind in (BINARY, GRADED, REWARD)))


def sides(pairs):
    return {i: a for i, (a, _) in enumerate(pairs)}, {i: b for i, (_, b) in enumerate(pairs)}


def pairs_of(wins=0, losses=0, both=0, neither=0):
    return [(0.0, 1.0)] * wins + [(1.0, 0.0)] * losses + [(1.0, 1.0)] * both + [(0.0, 0.0)] * neither


def scored(values, **fields):
    return [RowScore(index=i, line=i + 1, score=value, **fields) for i, value in enumerate(values)]


@given(st.integers(0, 200), st.integers(0, 200))
def test_wilson_and_mcnemar_equal_scipy(a, b):
    if a + b:
        theirs = stats.binomtest(a, a + b).proportion_ci(0.95, method="wilson")
        ours = statistics.wilson(a, a + b)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
        assert statistics.mcnemar_p(a, b) == pytest.approx(stats.binomtest(a, a + b).pvalue, rel=1e-7)
    else:
        assert statistics.mcnemar_p(0, 0) == 1.0


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 20, 100, 5_000])
def test_t_quantile_equals_scipy(freedom):
    assert statistics.t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)


def test_bootstrap_equals_scipy_on_skewed_values():
    values = np.random.default_rng(1).exponential(size=80)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0))
    low, high = statistics.bootstrap_quantiles(values)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.012)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.012)


def test_many_values_take_students_form_of_the_same_interval():
    values = np.random.default_rng(2).uniform(size=statistics.MANY_ROWS + 500)
    ours = statistics.mean_interval(values)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=1_000, method="percentile", rng=np.random.default_rng(0))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.002)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_compare_is_antisymmetric_and_ignores_order(pairs, random):
    forth, back = statistics.compare(*sides(pairs)), statistics.compare(*reversed(sides(pairs)))
    assert (back.delta, back.ci.low, back.ci.high) == (-forth.delta, -forth.ci.high, -forth.ci.low)
    assert (back.wins, back.losses, back.ties) == (forth.losses, forth.wins, forth.ties)
    assert (back.p_value, back.rows_needed) == (forth.p_value, forth.rows_needed)
    opposite = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}
    assert back.verdict == opposite.get(forth.verdict, forth.verdict)
    shuffled = random.sample(pairs, len(pairs))
    again = statistics.compare(*sides(shuffled))
    assert (again.delta, again.ci, again.wins, again.verdict) == (forth.delta, forth.ci, forth.wins, forth.verdict)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_a_comparison_is_consistent_in_itself(pairs):
    result = statistics.compare(*sides(pairs))
    assert result.n == result.wins + result.losses + result.ties == len(pairs)
    assert result.ci.low <= result.delta <= result.ci.high
    assert result.ci.low < result.ci.high
    assert result.delta == pytest.approx(result.candidate_mean - result.baseline_mean, abs=1e-9)
    decided = result.verdict is not Verdict.INCONCLUSIVE
    assert not (decided and result.ci.low <= 0 <= result.ci.high)
    assert not (decided and result.p_value is not None and result.p_value >= 0.05)
    assert (result.rows_needed is None) or (not decided and result.rows_needed > result.n)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(1, 200))
def test_ties_change_neither_the_test_nor_the_direction(wins, losses, ties, more):
    few = statistics.compare(*sides(pairs_of(wins, losses, neither=ties + 1)))
    many = statistics.compare(*sides(pairs_of(wins, losses, neither=ties + 1 + more)))
    assert many.p_value == few.p_value
    assert abs(many.delta) <= abs(few.delta) and many.delta * few.delta >= 0
    assert {few.verdict, many.verdict} != {Verdict.BETTER, Verdict.WORSE}


@settings(max_examples=60, deadline=None)
@given(st.one_of(*(st.lists(kind, min_size=2, max_size=60) for kind in (BINARY, GRADED, REWARD))))
def test_a_summary_never_has_an_interval_without_width(values):
    summary = statistics.summarise(scored(values))
    assert summary.ci.low <= summary.mean + 1e-12 and summary.mean - 1e-12 <= summary.ci.high
    assert summary.ci.high - summary.ci.low > 1e-3
    if min(values) >= 0 and max(values) <= 1:
        assert summary.ci.low >= 0 and summary.ci.high <= 1


def test_sixty_of_a_hundred():
    summary = statistics.summarise(scored([1.0] * 60 + [0.0] * 40))
    assert summary.binary and summary.mean == 0.6
    assert (summary.ci.low, summary.ci.high) == pytest.approx((0.502, 0.691), abs=1e-3)


def test_rows_without_a_score_are_told_apart():
    rows = [
        RowScore(index=0, line=1, score=1.0, details={"valid": True, "length": 4, "note": "x"}),
        RowScore(index=1, line=2, score=None, error="boom", finish_reason="length"),
        RowScore(index=2, line=3, score=1.0, details={"valid": False, "length": 8}),
    ]
    summary = statistics.summarise(rows)
    assert (summary.n, summary.failed_rows, summary.truncated_rows) == (3, 1, 1)
    assert summary.mean == pytest.approx(2 / 3) and summary.binary and summary.ci == statistics.wilson(2, 3)
    assert {name: (found.mean, found.n) for name, found in summary.extra.items()} == {
        "valid": (0.5, 2),
        "length": (6, 2),
    }
    assert summary.extra["valid"].ci == statistics.wilson(1, 2)
    assert statistics.scores_by_line(rows) == {1: 1.0, 2: None, 3: 1.0}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=30), st.integers(0, 3))
def test_other_numbers_are_paired_like_scores_where_both_sides_have_them(pairs, missing):
    sides = []
    for side in range(2):
        details = [{"f1": pair[side], "note": "x", "only": side} if side else {"f1": pair[side]} for pair in pairs]
        rows = [RowScore(index=n, line=n + 1, score=0.0, details=found) for n, found in enumerate(details)]
        sides.append(rows if side else rows[min(missing, len(rows) - 1) :])
    found = statistics.compare_extra(*sides)
    assert list(found) == ["f1"]
    common = pairs[min(missing, len(pairs) - 1) :]
    numbers = statistics.compare(*({n: pair[side] for n, pair in enumerate(common)} for side in range(2)))
    assert (found["f1"].delta, found["f1"].ci, found["f1"].n) == (numbers.delta, numbers.ci, numbers.n)


@pytest.mark.parametrize("tiny", [5e-324, 1e-283, 1e-160, 1e-9])
def test_no_number_of_rows_is_named_for_a_difference_that_is_next_to_none(tiny):
    assert statistics.rows_needed(np.array([0.0, tiny]), 1.0) is None


def test_one_row_says_next_to_nothing():
    assert statistics.summarise(scored([1.0])).ci.low < 0.25
    assert statistics.compare({1: 0.0}, {1: 1.0}).verdict is Verdict.INCONCLUSIVE
    assert statistics.compare({1: 0.0, 2: 0.0}, {1: 0.1, 2: 0.2}).verdict is Verdict.INCONCLUSIVE


def test_no_wins_and_no_losses_leave_room_for_both():
    result = statistics.compare(*sides(pairs_of(both=50, neither=50)))
    assert result.delta == 0 and result.verdict is Verdict.INCONCLUSIVE and result.rows_needed is None
    assert result.ci.low == -result.ci.high == pytest.approx(-0.037, abs=1e-3)


def test_interval_and_exact_test_must_agree():
    close = statistics.compare(*sides(pairs_of(wins=5, neither=95)))
    assert close.ci.low > 0 and close.p_value == pytest.approx(0.0625)
    assert close.verdict is Verdict.INCONCLUSIVE and close.rows_needed > 100
    assert statistics.compare(*sides(pairs_of(wins=40, losses=3, neither=57))).verdict is Verdict.BETTER
    assert statistics.compare(*sides(pairs_of(wins=3, losses=40, neither=57))).verdict is Verdict.WORSE


def test_only_rows_scored_on_both_sides_are_compared():
    result = statistics.compare({1: 0.0, 2: 1.0, 3: 0.0}, {2: 1.0, 3: 1.0, 9: 1.0})
    assert (result.n, result.wins, result.losses, result.ties) == (2, 1, 0, 1)


@pytest.mark.parametrize("call", [lambda: statistics.compare({1: 0.0}, {2: 0.0}), lambda: statistics.summarise([])])
def test_nothing_to_compare_is_an_error(call):
    with pytest.raises(FwError) as caught:
        call()
    assert caught.value.code in ("failed_precondition", "invalid_argument") and caught.value.hint


def test_rows_needed_gives_the_promised_power():
    """Simulate comparisons with as many rows as asked for: about 80 % of them decide."""
    rng = np.random.default_rng(3)
    wins, losses = 0.12, 0.05
    pilot = statistics.compare(*sides(pairs_of(wins=12, losses=5, neither=83)))
    n = pilot.rows_needed
    counts = rng.multinomial(n, [wins, losses, 1 - wins - losses], size=300)
    decided = sum(statistics.mcnemar_p(int(won), int(lost)) < 0.05 and won > lost for won, lost, _ in counts)
    assert 0.7 < decided / 300 < 0.9


def coverage(rng, draw, truth, runs):
    return sum((ci := draw(rng)).low <= truth <= ci.high for _ in range(runs)) / runs


def graded(rng, n=40):
    return statistics.mean_interval(rng.beta(0.5, 2.0, size=n))


def paired_binary(rng, n=60):
    cell = rng.choice(3, p=[0.3, 0.1, 0.6], size=n)
    after = np.where(cell == 0, 1.0, np.where(cell == 1, 0.0, 0.0))
    return statistics.difference_interval(np.where(cell == 1, 1.0, 0.0), after)


def paired_graded(rng, n=25):
    before = rng.uniform(size=n)
    return statistics.difference_interval(before, np.clip(before * 0.5 + 0.5 * rng.uniform(size=n), 0, 1))


CASES = [(graded, 0.2), (paired_binary, 0.2), (paired_graded, 0.0)]


@pytest.mark.parametrize(("draw", "truth"), CASES)
def test_intervals_cover_the_truth(draw, truth):
    assert coverage(np.random.default_rng(4), draw, truth, 250) > 0.91


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "truth"), CASES)
def test_intervals_cover_the_truth_in_many_runs(draw, truth):
    share = coverage(np.random.default_rng(5), draw, truth, 4_000)
    assert 0.935 < share < 0.985

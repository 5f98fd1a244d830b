"""A row without a score never helps: whatever either side loses, no number and no verdict gets more favourable."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.evals import statistics
from engine.evals.statistics import compare, mean_bar, mean_score, summarise
from fw_sdk.types import RowScore, Verdict

FAVOUR = [Verdict.INVALID, Verdict.WORSE, Verdict.INCONCLUSIVE, Verdict.BETTER]
"""From what helps a candidate least (no gate passes it) to what helps it most."""
LOST = st.sampled_from([None, math.nan, math.inf, -math.inf])
RANGES = [(0.0, 1.0), (-5.0, 5.0), (0.0, 10.0)]
SCORES = {
    "binary": st.sampled_from([0.0, 1.0]),
    "graded": st.floats(0, 1).map(lambda value: round(value, 2)),
    "nearly equal": st.sampled_from([0.5, 0.5, 0.5, 0.5, 0.51]),
    "outliers": st.sampled_from([0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1.0]),
}


@st.composite
def pairings(draw):
    """Two sides of up to 160 rows, some lost already, and one more scored row to lose: (sides, which side, line)."""
    kinds = [SCORES[draw(st.sampled_from(sorted(SCORES)))] for _ in range(2)]
    n = draw(st.one_of(st.integers(1, 12), st.integers(100, 160)))
    few = [draw(st.lists(kind, min_size=1, max_size=12)) for kind in kinds]
    sides = [{line: scores[line % len(scores)] for line in range(n)} for scores in few]
    for side in sides:
        side.update(draw(st.dictionaries(st.integers(0, n - 1), LOST, max_size=2)))
    which = draw(st.integers(0, 1))
    scored = [line for line, score in sides[which].items() if score is not None and math.isfinite(score)]
    assume(scored)
    return sides, which, draw(st.sampled_from(scored))


def one_lost(sides, which, line, value=None):
    return [{**side, line: value} if place == which else side for place, side in enumerate(sides)]


def check_not_more_favourable(before, after):
    tiny = 1e-9
    assert after.delta <= before.delta + tiny
    assert after.ci.low <= before.ci.low + tiny and after.ci.high <= before.ci.high + tiny
    assert after.ci.low <= after.delta + tiny and after.delta <= after.ci.high + tiny
    assert after.candidate_mean <= before.candidate_mean + tiny and after.baseline_mean >= before.baseline_mean - tiny
    assert after.wins <= before.wins and after.losses >= before.losses
    assert FAVOUR.index(after.verdict) <= FAVOUR.index(before.verdict)


@settings(max_examples=150, deadline=None)
@given(pairings(), st.sampled_from([None, *RANGES]), LOST)
def test_a_lost_score_never_helps(pairing, declared, value):
    """Without a declared range scores from 0 to 1 have that one, and so lose nothing of it."""
    sides, which, line = pairing
    lost = one_lost(sides, which, line, value)
    before, after = compare(*sides, declared), compare(*lost, declared)
    check_not_more_favourable(before, after)
    counted = (after.baseline_failed_rows, after.candidate_failed_rows)
    assert counted[which] == (before.baseline_failed_rows, before.candidate_failed_rows)[which] + 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-20, 0), st.integers(-20, 0)), min_size=2, max_size=120),
    st.integers(0, 1),
    st.data(),
)
def test_nor_in_the_range_that_was_seen_unless_the_range_was_the_lost_score_s_own(pairs, which, data):
    sides = [dict(enumerate(map(float, column))) for column in zip(*pairs, strict=True)]
    lost = one_lost(sides, which, data.draw(st.sampled_from(sorted(sides[0]))))
    before, after = compare(*sides), compare(*lost)
    assume(before.score_range == after.score_range)
    check_not_more_favourable(before, after)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 199))
@example(2)
@example(4)
@example(5)
def test_beyond_two_percent_nothing_is_valid(count):
    for which in range(2):
        sides = [dict.fromkeys(range(200), 0.0), dict.fromkeys(range(200), 1.0)]
        for line in range(count):
            sides[which][line] = None
        found = compare(*sides)
        assert found.verdict is (Verdict.INVALID if count > 4 else Verdict.BETTER)
        assert (found.p_value is None) == (count > 4) and (count <= 4 or found.rows_needed is None)


def test_a_candidate_that_crashes_where_scores_are_negative_does_not_win():
    """What it crashed on counted as 0, the best score there was: its mean rose from -0.89 to -0.01, *better*."""
    baseline = dict.fromkeys(range(100), -0.9)
    sound = {line: -0.89 for line in range(100)}
    crashing = {line: -0.92 if line > 1 else None for line in range(100)}
    assert compare(baseline, sound, (-1.0, 0.0)).delta > 0
    found = compare(baseline, crashing, (-1.0, 0.0))
    assert found.delta == pytest.approx(-0.98 * 0.02 - 0.02 * 0.1) and found.verdict is not Verdict.BETTER
    assert found.candidate_failed_rows == 2
    assert compare(baseline, dict.fromkeys(range(100)), (-1.0, 0.0)).verdict is Verdict.INVALID


def test_losing_the_one_outlying_win_does_not_decide_for_the_candidate():
    """At its minimum alone it would: the spread shrinks more than the mean."""
    baseline, candidate = dict.fromkeys(range(60), 0.0), {line: 0.01 if line else 1.0 for line in range(60)}
    before, after = compare(baseline, candidate), compare(baseline, {**candidate, 0: None})
    assert before.verdict is Verdict.INCONCLUSIVE and after.verdict is Verdict.INCONCLUSIVE
    naive = compare(baseline, {**candidate, 0: 0.0})
    assert naive.verdict is Verdict.BETTER and naive.delta == after.delta and after.ci.low <= before.ci.low


@pytest.mark.parametrize(
    ("side", "declared", "expected"),
    [
        (0, None, -1.0 + 0.5),
        (1, None, 0.0 - 0.5),
        (0, (-2.0, 3.0), -3.0 + 0.5),
        (1, (-2.0, 3.0), -2.0 - 0.5),
    ],
)
def test_a_side_without_any_score_is_at_its_end_of_the_range(side, declared, expected):
    sides = [dict.fromkeys(range(20), 0.5), dict.fromkeys(range(20), 0.5)]
    sides[side] = dict.fromkeys(range(20))
    found = compare(*sides, declared)
    assert found.verdict is Verdict.INVALID and found.delta == pytest.approx(expected)
    assert (found.baseline_failed_rows, found.candidate_failed_rows)[side] == 20
    both = compare(dict.fromkeys(range(3)), dict.fromkeys(range(3)))
    assert (both.verdict, both.delta, both.n) == (Verdict.INVALID, -1.0, 3)


@pytest.mark.parametrize("value", [-3.0, 0.0, 1.0, 40.0])
def test_where_all_scores_are_equal_a_lost_one_still_does_not_help(value):
    same = dict.fromkeys(range(100), value)
    low, high = min(0.0, value), max(1.0, value)
    for sides in ((same, {**same, 7: None}), ({**same, 7: None}, same)):
        found = compare(*sides)
        lost = value - low if sides[1][7] is None else high - value
        assert found.delta == pytest.approx(-lost / 100)
        assert found.verdict is Verdict.INCONCLUSIVE and found.ci.low < 0


def test_mcnemar_is_asked_where_nothing_but_right_and_wrong_is_possible():
    before, after = dict.fromkeys(range(100), 0.0), {line: float(line < 30) for line in range(100)}
    lost = {**after, 0: None}
    assert compare(before, after).p_value == pytest.approx(stats.binomtest(30, 30).pvalue)
    assert compare(before, lost).p_value == pytest.approx(stats.binomtest(29, 29).pvalue)
    assert compare({**before, 50: None}, after).p_value == pytest.approx(stats.binomtest(30, 31).pvalue)
    assert compare(before, {**after, 0: 0.5}).p_value is None
    assert compare(before, after, (-1.0, 1.0)).p_value is None, "other scores than 0 and 1 are possible"


def rows(values, **fields):
    return [RowScore(index=i, line=i + 1, score=value, **fields) for i, value in enumerate(values)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=50), st.sampled_from([None, (-5.0, 5.0)]), st.data())
def test_a_summary_takes_lost_rows_at_the_minimum(values, declared, data):
    lost = data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1))
    kept = [None if place in lost else value for place, value in enumerate(values)]
    summary, whole = summarise(rows(kept), declared), summarise(rows(values), declared)
    lowest = -5.0 if declared else min([0.0, *(value for value in kept if value is not None)])
    assert summary.mean == pytest.approx(np.mean([lowest if value is None else value for value in kept]))
    assert (summary.n, summary.failed_rows, summary.score_range) == (len(values), len(lost), declared)
    assert summary.ci.low <= summary.mean + 1e-12 and summary.mean - 1e-12 <= summary.ci.high
    assert summary.mean == pytest.approx(mean_score(kept, declared))
    if declared:
        assert summary.mean <= whole.mean + 1e-12 and mean_bar(kept, declared) >= whole.mean - 1e-12


def test_a_summary_of_right_and_wrong_answers_stays_binary_when_rows_are_lost():
    summary = summarise(rows([1.0] * 60 + [0.0] * 39 + [None]))
    assert summary.binary and summary.ci == statistics.wilson(60, 100)
    assert not summarise(rows([1.0, None]), (-1.0, 1.0)).binary
    assert summarise(rows([None, None]), (-1.0, 1.0)).mean == -1.0
    assert not summarise(rows([1.0, 0.0]), (0.0, 5.0)).binary, "other scores than 0 and 1 are possible"


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_none(score):
    summary = summarise(rows([score, 1.0, 0.5]))
    assert (summary.failed_rows, summary.n) == (1, 3) and summary.mean == pytest.approx(0.5)

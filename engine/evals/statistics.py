"""Statistics of scores: a mean with its interval, and two models compared on the same rows.

Intervals never pretend to know more than n rows can tell. A binary score gets Wilson's interval. Any other mean gets
the hull of its percentile bootstrap (10,000 resamples, fixed seed) and Student's t interval, because the bootstrap
alone is too narrow for few rows. Where all values are equal both have width zero; then the interval says how far the
mean could lie if values that were not seen have the mass that Wilson's bound allows after n rows without one.

A row without a score (none, or not a finite one) never helps. It could have scored anything in the range of scores:
what the evaluator declares, or else 0 to 1 widened by every score seen. A mean takes it at the range's minimum. A
comparison takes it at the minimum for the candidate and at the maximum for the baseline, and each end of its interval
is the lowest over all that the row could have scored, because a win that is an outlier widens the interval, and
losing it must not narrow it. Beyond ``MOST_MISSING`` rows of a side nothing is valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fw_sdk.types import ExtraDifference, ExtraMean, FwError, Interval, RowScore, ScoreSummary, Verdict

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 10_000
SEED = 20_260_101
MANY_ROWS = 5_000
"""Of so many rows Student's interval is that of the bootstrap, which would take seconds."""
MOST_MISSING = 0.02
"""The share of a side's rows that may be without a score before a comparison is invalid."""
UNDECLARED = (0.0, 1.0)
BISECTIONS = 64
CHUNK = 1_000_000
MOST_ROWS_NEEDED = 10_000_000

Values = NDArray[np.float64]
ScoreRange = tuple[float, float]
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
_Z_POWER = NormalDist().inv_cdf(POWER)


@dataclass(frozen=True)
class ComparisonNumbers:
    """Candidate minus baseline on ``n`` common rows; the numbers of the wire type ``Comparison``."""

    baseline_mean: float
    candidate_mean: float
    delta: float
    ci: Interval
    n: int
    wins: int
    losses: int
    ties: int
    baseline_failed_rows: int
    candidate_failed_rows: int
    score_range: ScoreRange
    p_value: float | None
    verdict: Verdict
    rows_needed: int | None


def scores_by_line(scores: Iterable[RowScore]) -> dict[int, float | None]:
    """Line number to score, None for a row without one."""
    return {row.line: row.score for row in scores}


def score_range(declared: ScoreRange | None, *columns: Values) -> ScoreRange:
    """The lowest and the highest possible score: ``declared``, or else 0 and 1, widened by every finite score."""
    low, high = declared or UNDECLARED
    for column in columns:
        known = column[np.isfinite(column)]
        if len(known):
            low, high = min(low, float(known.min())), max(high, float(known.max()))
    return low, high


def summarise(scores: Sequence[RowScore], declared: ScoreRange | None = None) -> ScoreSummary:
    """The mean of all rows with its 95 % interval; rows without a score are counted and taken at the range's minimum.

    ``declared`` is the evaluator's range of scores. ``extra`` has every other number that the evaluator returned, over
    the rows that have it. Raises ``invalid_argument`` without rows.
    """
    if not scores:
        raise FwError("invalid_argument", "There are no scores to summarise.", hint="evaluate at least one row")
    column = _column(row.score for row in scores)
    limits = score_range(declared, column)
    values = _filled(column, limits[0])
    binary = _is_truly_binary(limits, column)
    return ScoreSummary(
        n=len(values),
        mean=float(values.mean()),
        ci=wilson(int(values.sum()), len(values)) if binary else _interval(values, values, *limits),
        failed_rows=_missing(column),
        truncated_rows=sum(row.finish_reason == "length" for row in scores),
        binary=binary,
        score_range=declared,
        extra=_extra_means(scores),
    )


def mean_score(scores: Iterable[float | None], declared: ScoreRange | None) -> float:
    """The mean, rows without a score at the range's minimum; of at least one row."""
    column = _column(scores)
    return _mean(_filled(column, score_range(declared, column)[0]))


def mean_bar(scores: Iterable[float | None], declared: ScoreRange | None) -> float:
    """The mean as a bar that others must pass: rows without a score at the range's maximum; of at least one row."""
    column = _column(scores)
    return _mean(_filled(column, score_range(declared, column)[1]))


def too_many_missing(missing: int, n: int) -> bool:
    """Whether so many of ``n`` rows are without a score that what the others say is not valid."""
    return missing > MOST_MISSING * n


def _column(scores: Iterable[float | None]) -> Values:
    """Scores as an array, NaN where there is none."""
    return np.array([math.nan if score is None else score for score in scores], dtype=np.float64)


def _filled(column: Values, score: float) -> Values:
    return np.where(np.isfinite(column), column, score)


def _missing(column: Values) -> int:
    return int((~np.isfinite(column)).sum())


def _is_truly_binary(limits: ScoreRange, *columns: Values) -> bool:
    """Whether nothing but 0 and 1 was scored, and nothing else could have been as far as the range tells."""
    known = np.concatenate([column[np.isfinite(column)] for column in columns])
    return limits == UNDECLARED and len(known) > 0 and is_binary(known)


def compare_extra(baseline: Iterable[RowScore], candidate: Iterable[RowScore]) -> dict[str, ExtraDifference]:
    """The evaluator's other numbers, paired by line: each that both sides have on some line, with its interval."""
    before, after = _extra_by_line(baseline), _extra_by_line(candidate)
    compared = {}
    for name in before.keys() & after.keys():
        lines = sorted(before[name].keys() & after[name].keys())
        if lines:
            pair = [np.array([side[name][line] for line in lines], dtype=np.float64) for side in (before, after)]
            ci = difference_interval(*pair)
            compared[name] = ExtraDifference(n=len(lines), delta=_mean(pair[1] - pair[0]), ci=ci)
    return dict(sorted(compared.items()))


def _extra_means(scores: Iterable[RowScore]) -> dict[str, ExtraMean]:
    found = {}
    for name, by_line in _extra_by_line(scores).items():
        values = np.array(list(by_line.values()), dtype=np.float64)
        found[name] = ExtraMean(n=len(values), mean=_mean(values), ci=mean_interval(values))
    return found


def _extra_by_line(scores: Iterable[RowScore]) -> dict[str, dict[int, float]]:
    """Name to line to value of every finite number beside the score."""
    columns: dict[str, dict[int, float]] = {}
    for row in scores:
        for name, value in row.details.items():
            if isinstance(value, int | float) and math.isfinite(value):
                columns.setdefault(name, {})[row.line] = float(value)
    return columns


def compare(
    baseline: Mapping[int, float | None], candidate: Mapping[int, float | None], declared: ScoreRange | None = None
) -> ComparisonNumbers:
    """Compare two evaluations on their common lines; ``declared`` is the evaluator's range of scores.

    The verdict is better or worse if the interval of the mean difference excludes 0 and, for binary scores,
    McNemar's exact test agrees (p < 0.05); else inconclusive, with ``rows_needed`` where the data suggests a number.
    It is invalid if more than ``MOST_MISSING`` of a side's rows have no score.

    In a given range, a score that is lost on either side never raises ``delta`` or an end of ``ci``, and never makes
    the verdict more favourable. Without lost scores, swapping the sides negates ``delta`` and ``ci`` exactly.
    Raises ``failed_precondition`` without a common line.
    """
    lines = _common_lines(baseline, candidate)
    sides = [_column(side[line] for line in lines) for side in (baseline, candidate)]
    low, high = score_range(declared, *sides)
    missing = [_missing(side) for side in sides]
    before, after = _filled(sides[0], high), _filled(sides[1], low)
    difference = after - before
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    ci = _interval(difference, _filled(sides[1], high) - _filled(sides[0], low), low - high, high - low)
    invalid = any(too_many_missing(count, len(lines)) for count in missing)
    p_value = mcnemar_p(wins, losses) if _is_truly_binary((low, high), *sides) and not invalid else None
    verdict = Verdict.INVALID if invalid else _verdict(ci, p_value, lost=any(missing))
    return ComparisonNumbers(
        baseline_mean=float(before.mean()),
        candidate_mean=float(after.mean()),
        delta=_mean(difference),
        ci=ci,
        n=len(lines),
        wins=wins,
        losses=losses,
        ties=len(lines) - wins - losses,
        baseline_failed_rows=missing[0],
        candidate_failed_rows=missing[1],
        score_range=(low, high),
        p_value=p_value,
        verdict=verdict,
        rows_needed=rows_needed(difference, high - low) if verdict is Verdict.INCONCLUSIVE else None,
    )


def _common_lines(baseline: Mapping[int, object], candidate: Mapping[int, object]) -> list[int]:
    lines = sorted(baseline.keys() & candidate.keys())
    if not lines:
        raise FwError(
            "failed_precondition",
            "The two evaluations have no row in common.",
            not_done="Nothing was compared.",
            hint="evaluate both models on the same dataset, split and limit",
        )
    return lines


def _verdict(ci: Interval, p_value: float | None, *, lost: bool) -> Verdict:
    """What the interval says if McNemar's test agrees.

    Where scores are lost, *worse* needs the interval alone: the one score that made the others more than binary may be
    among them, and then it is the loss that brought the test, which may only speak against the candidate.
    """
    agrees = p_value is None or p_value < 1 - LEVEL
    if ci.low > 0 and agrees:
        return Verdict.BETTER
    return Verdict.WORSE if ci.high < 0 and (agrees or lost) else Verdict.INCONCLUSIVE


def is_binary(values: Values) -> bool:
    """Whether every value is exactly 0 or 1."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a proportion, n >= 1."""
    share, z2 = successes / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(low=low, high=high, level=LEVEL)


def mean_interval(values: Values) -> Interval:
    """The 95 % interval of the mean of ``values`` [n], n >= 1; within [0, 1] if all values are."""
    if is_binary(values):
        return wilson(int(values.sum()), len(values))
    return _interval(values, values, *score_range(None, values))


def difference_interval(before: Values, after: Values) -> Interval:
    """The 95 % interval of the mean of ``after - before``, paired by position; antisymmetric in its arguments."""
    low, high = score_range(None, before, after)
    return _interval(after - before, after - before, low - high, high - low)


def _interval(worst: Values, best: Values, lowest: float, highest: float) -> Interval:
    """Hull of percentile bootstrap and t interval, cut to what is possible: ``[lowest, highest]``.

    A value is known between ``worst`` and ``best``, and mostly they are equal. Each end is at most that of any values
    between them, and no higher where more is unknown.
    """
    n, mean, known = len(worst), _mean(worst), bool((worst == best).all())
    low = high = mean
    if n > 1:
        half = t_quantile(n - 1) / math.sqrt(n * (n - 1))
        low, high = mean - half * math.sqrt(_most_spread(worst, best)), mean + half * math.sqrt(_spread(worst, best))
    if n <= MANY_ROWS:
        boot_low, boot_high = bootstrap_quantiles(worst)
        low, high = min(low, boot_low), max(high, boot_high)
    equal = float(worst.max())
    if equal <= best.min():  # all values may be equal
        unseen = wilson(0, n).high
        low = min(low, equal - unseen * (equal - lowest))
        high = max(high, equal + unseen * (highest - equal)) if known else high
    return Interval(low=max(low, lowest), high=min(high, highest), level=LEVEL)


def _spread(worst: Values, best: Values) -> float:
    """The sum of squares around the mean of the values that are known: the others can add nothing below 0."""
    known = worst[worst == best]
    return math.fsum((known - _mean(known)) ** 2) if len(known) else 0.0


def _most_spread(worst: Values, best: Values) -> float:
    """An upper bound of the sum of squares around the mean: each value at the end that is farther from one centre.

    The centre is where that is least, which makes the bound exact if all values are known.
    """
    if (worst == best).all():
        return _spread(worst, best)
    low, high = float(worst.min()), float(best.max())
    for _ in range(BISECTIONS):
        centre = (low + high) / 2
        far = np.where(best - centre > centre - worst, best, worst)
        low, high = (centre, high) if float((centre - far).sum()) < 0 else (low, centre)
    return math.fsum(np.maximum(np.abs(worst - low), np.abs(best - low)) ** 2)


def bootstrap_quantiles(values: Values) -> tuple[float, float]:
    """Percentile bootstrap of the mean.

    It draws ranks, always the same ones for n values. So it depends on the set of values only, negating them negates
    it exactly, and neither quantile rises when a value falls.
    """
    n, ordered = len(values), np.sort(values)
    rng = np.random.default_rng(SEED)
    up, down = np.empty(RESAMPLES), np.empty(RESAMPLES)
    step = max(1, CHUNK // n)
    for start in range(0, RESAMPLES, step):
        ranks = rng.integers(0, n, size=(min(step, RESAMPLES - start), n), dtype=np.int32)
        up[start : start + step] = ordered[ranks].mean(axis=1)
        down[start : start + step] = (-ordered[::-1])[ranks].mean(axis=1)
    (up_low, up_high), (down_low, down_high) = (np.quantile(means, TAILS) for means in (up, down))
    return float(up_low - down_high) / 2, float(up_high - down_low) / 2


def _mean(values: Values) -> float:
    """The mean by exact summation: independent of order, and negated exactly with its values."""
    return math.fsum(values) / len(values)


def t_quantile(freedom: int) -> float:
    """Student's two-sided 95 % quantile: exact for 1 and 2 degrees of freedom, else within 0.2 % (Hill's series)."""
    probability = 0.5 + LEVEL / 2
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        tail = 2 * probability - 1
        return tail * math.sqrt(2 / (1 - tail * tail))
    z, v = _Z, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def mcnemar_p(wins: int, losses: int) -> float:
    """Two-sided exact McNemar test: how likely so uneven a split of the discordant rows is if both were equal."""
    n, few = wins + losses, min(wins, losses)
    log_total = math.lgamma(n + 1) - n * math.log(2)
    tail = math.fsum(math.exp(log_total - math.lgamma(k + 1) - math.lgamma(n - k + 1)) for k in range(few + 1))
    return min(1.0, 2 * tail)


def rows_needed(difference: Values, scale: float) -> int | None:
    """How many rows in all would decide with 80 % power, if the difference is what it seems; None if it is none.

    One imagined row with a difference of ``scale`` either way keeps the spread of few or equal rows from being 0.
    """
    n, total = len(difference), math.fsum(difference)
    second_moment = (math.fsum(difference**2) + scale**2) / (n + 1)
    variance = second_moment - (total / (n + 1)) ** 2
    wanted, effect = (_Z + _Z_POWER) ** 2 * variance, (total / n) ** 2
    if effect == 0 or wanted > MOST_ROWS_NEEDED * effect:  # a tiny difference may be none when it is squared
        return None
    return max(n + 1, math.ceil(wanted / effect))

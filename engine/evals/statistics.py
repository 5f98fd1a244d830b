"""Statistics of scores: a mean with its interval, and two models compared on the same rows.

Intervals never pretend to know more than n rows can tell. A binary score gets Wilson's interval. Any other mean gets
the hull of its percentile bootstrap (10,000 resamples, fixed seed) and Student's t interval, because the bootstrap
alone is too narrow for few rows. Where all values are equal both have width zero; then the interval says how far the
mean could lie if values that were not seen have the mass that Wilson's bound allows after n rows without one.
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
FEW_VALUES = 16
MANY_ROWS = 5_000
CHUNK = 1_000_000
MOST_ROWS_NEEDED = 10_000_000

Values = NDArray[np.float64]
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
_Z_POWER = NormalDist().inv_cdf(POWER)


@dataclass(frozen=True)
class ComparisonNumbers:
    """Candidate minus baseline on the ``n`` rows that both scored; the numbers of the wire type ``Comparison``."""

    baseline_mean: float
    candidate_mean: float
    delta: float
    ci: Interval
    n: int
    wins: int
    losses: int
    ties: int
    p_value: float | None
    verdict: Verdict
    rows_needed: int | None


def scores_by_line(scores: Iterable[RowScore]) -> dict[int, float]:
    """Line number to score; a row without a score counts as 0."""
    return {row.line: row.score or 0.0 for row in scores}


def summarise(scores: Sequence[RowScore]) -> ScoreSummary:
    """The mean of all rows with its 95 % interval; rows without a score count as 0 and are counted apart.

    ``extra`` has every other number that the evaluator returned, over the rows that have it.
    Raises ``invalid_argument`` without rows.
    """
    if not scores:
        raise FwError("invalid_argument", "There are no scores to summarise.", hint="evaluate at least one row")
    values = np.array([row.score or 0.0 for row in scores], dtype=np.float64)
    return ScoreSummary(
        n=len(values),
        mean=float(values.mean()),
        ci=mean_interval(values),
        failed_rows=sum(row.score is None for row in scores),
        truncated_rows=sum(row.finish_reason == "length" for row in scores),
        binary=is_binary(values),
        extra=_extra_means(scores),
    )


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


def compare(baseline: Mapping[int, float], candidate: Mapping[int, float]) -> ComparisonNumbers:
    """Compare two evaluations on the lines that both scored.

    The verdict is better or worse if the interval of the mean difference excludes 0 and, for binary scores,
    McNemar's exact test agrees (p < 0.05); else inconclusive, with ``rows_needed`` where the data suggests a number.
    Swapping the sides negates ``delta`` and ``ci`` exactly. Raises ``failed_precondition`` without a common line.
    """
    lines = sorted(baseline.keys() & candidate.keys())
    if not lines:
        raise FwError(
            "failed_precondition",
            "The two evaluations have no row in common.",
            not_done="Nothing was compared.",
            hint="evaluate both models on the same dataset, split and limit",
        )
    before = np.array([baseline[line] for line in lines], dtype=np.float64)
    after = np.array([candidate[line] for line in lines], dtype=np.float64)
    difference = after - before
    binary = is_binary(before) and is_binary(after)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    ci = difference_interval(before, after)
    p_value = mcnemar_p(wins, losses) if binary else None
    verdict = _verdict(ci, p_value)
    return ComparisonNumbers(
        baseline_mean=float(before.mean()),
        candidate_mean=float(after.mean()),
        delta=_mean(difference),
        ci=ci,
        n=len(lines),
        wins=wins,
        losses=losses,
        ties=len(lines) - wins - losses,
        p_value=p_value,
        verdict=verdict,
        rows_needed=rows_needed(difference, _scale(before, after)) if verdict is Verdict.INCONCLUSIVE else None,
    )


def _verdict(ci: Interval, p_value: float | None) -> Verdict:
    if (ci.low <= 0 <= ci.high) or (p_value is not None and p_value >= 1 - LEVEL):
        return Verdict.INCONCLUSIVE
    return Verdict.BETTER if ci.low > 0 else Verdict.WORSE


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
    return _interval(values, min(0.0, float(values.min())), max(1.0, float(values.max())))


def difference_interval(before: Values, after: Values) -> Interval:
    """The 95 % interval of the mean of ``after - before``, paired by position; antisymmetric in its arguments."""
    scale = _scale(before, after)
    return _interval(after - before, -scale, scale)


def _scale(before: Values, after: Values) -> float:
    """The largest difference that scores between their own extremes, or 0 and 1, can have."""
    both = np.concatenate([before, after])
    return max(1.0, float(both.max())) - min(0.0, float(both.min()))


def _interval(values: Values, lowest: float, highest: float) -> Interval:
    """Hull of percentile bootstrap and t interval, cut to what is possible: ``[lowest, highest]``."""
    n, mean = len(values), _mean(values)
    if values.min() == values.max():
        unseen = wilson(0, n).high
        low, high = mean - unseen * (mean - lowest), mean + unseen * (highest - mean)
    else:
        variance = math.fsum((values - mean) ** 2) / (n - 1)
        half = t_quantile(n - 1) * math.sqrt(variance / n)
        boot_low, boot_high = bootstrap_quantiles(values)
        low, high = min(boot_low, mean - half), max(boot_high, mean + half)
    return Interval(low=max(low, lowest), high=min(high, highest), level=LEVEL)


def bootstrap_quantiles(values: Values) -> tuple[float, float]:
    """Percentile bootstrap of the mean. Depends on the set of values only, and negating them negates it exactly."""
    up_low, up_high = _one_sided_quantiles(values)
    down_low, down_high = _one_sided_quantiles(-values)
    return (up_low - down_high) / 2, (up_high - down_low) / 2


def _one_sided_quantiles(values: Values) -> tuple[float, float]:
    distinct, counts = np.unique(values, return_counts=True)
    n = len(values)
    rng = np.random.default_rng(SEED)
    if len(distinct) <= FEW_VALUES:
        means = rng.multinomial(n, counts / n, size=RESAMPLES) @ distinct / n
    elif n <= MANY_ROWS:
        ordered = np.sort(values)
        sizes = [min(CHUNK // n, RESAMPLES - start) for start in range(0, RESAMPLES, CHUNK // n)]
        means = np.concatenate([ordered[rng.integers(0, n, size=(size, n))].mean(axis=1) for size in sizes])
    else:  # the mean of so many values is normal, and resampling them would take seconds
        mean, half = _mean(values), _Z * float(values.std()) / math.sqrt(n)
        return mean - half, mean + half
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


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

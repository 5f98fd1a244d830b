"""The picture of one comparison: every row's difference, both means, and the difference with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fw_sdk.pictures.style import (
    BASELINE,
    GREY,
    INK,
    LIGHT,
    TUNED,
    VERDICT_INK,
    canvas,
    frame,
    headline,
    save,
    say,
    shortened,
    verdict,
)
from fw_sdk.types import Comparison, RowScore, ScoreSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIN, LOSS = VERDICT_INK["better"], VERDICT_INK["worse"]
FEW_ROWS = 60


@dataclass(frozen=True)
class Side:
    """One of the two: its name, the scores of its rows, and their mean if it was summarised."""

    name: str
    scores: Sequence[RowScore]
    summary: ScoreSummary | None


def draw_comparison(comparison: Comparison, baseline: Side, candidate: Side, target: Path | IO[bytes]) -> None:
    """Write a PNG of 1200 x 500 pixels: rows on the left, means and their difference on the right."""
    figure = canvas()
    grid = figure.add_gridspec(
        2, 2, width_ratios=(1.35, 1.0), height_ratios=(1.5, 1.0), left=0.06, right=0.985, top=0.78, bottom=0.21,
        wspace=0.28, hspace=0.85,
    )  # fmt: skip
    headline(figure, f"{shortened(baseline.name)}  →  {shortened(candidate.name)}")
    _draw_rows(figure.add_subplot(grid[:, 0]), differences(comparison, baseline.scores, candidate.scores))
    _draw_means(figure.add_subplot(grid[0, 1]), baseline, candidate)
    _draw_difference(figure.add_subplot(grid[1, 1]), comparison)
    verdict(figure, comparison, "candidate", "baseline")
    save(figure, target)


def differences(comparison: Comparison, before: Sequence[RowScore], after: Sequence[RowScore]) -> list[float]:
    """Candidate minus baseline of each row that both have, largest first; rows without a score as in its delta."""
    known = {score.line: score for score in before}
    found = (comparison.row_difference(known[score.line], score) for score in after if score.line in known)
    return sorted((value for value in found if value is not None), reverse=True)


def _draw_rows(axes: Axes, found: list[float]) -> None:
    wins, losses = sum(value > 0 for value in found), sum(value < 0 for value in found)
    counts = f"{wins} better, {len(found) - wins - losses} the same, {losses} worse"
    frame(axes, "Difference of each row, sorted", counts if found else "")
    if not found:
        say(axes, "no row has both scores")
        return
    inks = [WIN if value > 0 else LOSS if value < 0 else GREY for value in found]
    axes.bar(range(len(found)), found, width=0.9 if len(found) <= FEW_ROWS else 1.0, color=inks)
    axes.axhline(0, color=GREY, lw=1.0)
    axes.spines["bottom"].set_visible(False)
    most = max(map(abs, found)) or 1.0
    low, high = (-1.1 * most if losses else -0.1 * most), (1.1 * most if wins else 0.1 * most)
    axes.set_ylim(low, high)
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.set_xticks([])
    axes.set_xlabel(f"{len(found)} rows, candidate − baseline", color=GREY, fontsize=10)


def _draw_means(axes: Axes, baseline: Side, candidate: Side) -> None:
    frame(axes, "Mean score", "with its 95 % interval")
    sides = [(side, ink) for side, ink in ((candidate, TUNED), (baseline, BASELINE)) if side.summary is not None]
    if not sides:
        say(axes, "nothing was summarised")
        return
    for place, (side, ink) in enumerate(sides):
        assert side.summary is not None
        _interval(axes, place, side.summary.mean, side.summary.ci.low, side.summary.ci.high, ink)
    names = ["candidate" if side is candidate else "baseline" for side, _ in sides]
    _rows_of_dots(axes, names)


def _draw_difference(axes: Axes, comparison: Comparison) -> None:
    frame(axes, "Difference", "right of the line is better")
    axes.axvline(0, color=INK, lw=1.2, ls=(0, (4, 3)))
    _interval(axes, 0, comparison.delta, comparison.ci.low, comparison.ci.high, VERDICT_INK[comparison.verdict.value])
    reach = 1.15 * max(abs(comparison.ci.low), abs(comparison.ci.high), abs(comparison.delta)) or 1.0
    axes.set_xlim(-reach, reach)
    _rows_of_dots(axes, ["difference"])


def _interval(axes: Axes, place: int, middle: float, low: float, high: float, ink: str) -> None:
    sides = [[max(0.0, middle - low)], [max(0.0, high - middle)]]
    axes.errorbar(middle, place, xerr=sides, fmt="o", color=ink, ms=8, lw=2.4, capsize=6, capthick=2.0)


def _rows_of_dots(axes: Axes, names: list[str]) -> None:
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=LIGHT, lw=0.6)
    axes.locator_params(axis="x", nbins=6)

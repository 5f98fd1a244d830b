"""The picture of one pipeline: how the loss fell, and what the model came to beside its baselines.

matplotlib is imported when a picture is drawn and not before: the CLI must start fast without it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from fw_sdk.types import Comparison, PipelineResult, ScoreSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX, DPI = 1200, 500, 100
INK, GREY, LIGHT, BASELINE, TUNED = "#1f2933", "#6b7785", "#c9d1d9", "#9aa7b4", "#1769aa"
MOST_BARS = 6
VERDICT_INK = {"better": "#18794e", "worse": "#b42318", "inconclusive": "#8a6100"}


def draw_pipeline(outcome: PipelineResult, path: Path) -> Path:
    """Write a PNG of 1200 x 500 pixels: the training loss on the left, scores with 95 % intervals on the right.

    Parts that the outcome lacks (a pipeline without fine-tune, a score that failed) are left out and said.
    Returns ``path``; missing folders are made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_PX / DPI, HEIGHT_PX / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.1))
    figure.subplots_adjust(left=0.06, right=0.985, top=0.78, bottom=0.26, wspace=0.16)
    figure.text(0.06, 0.93, _headline(outcome), fontsize=14, fontweight="bold", color=INK)
    _draw_loss(left, outcome)
    _draw_scores(right, outcome)
    _caption(figure, outcome)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI)
    return path


def _headline(outcome: PipelineResult) -> str:
    adapter = _short(outcome.adapter) if outcome.adapter else None
    return f"{_short(outcome.model)}  →  {adapter}" if adapter else _short(outcome.model)


def _short(name: str, most: int = 40) -> str:
    last = name.rsplit("/", 1)[-1]
    return last if len(last) <= most else last[: most - 1] + "…"


def _draw_loss(axes: Axes, outcome: PipelineResult) -> None:
    points = [(step, loss) for step, loss in outcome.loss if math.isfinite(loss)]
    _frame(axes, "Training loss", _training_facts(outcome, points))
    if not points:
        _say(axes, "no training loss was recorded")
        return
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    few = len(points) < 8
    axes.plot(steps, losses, color=TUNED if few else LIGHT, lw=2.0 if few else 1.2, marker="o" if few else None, ms=4)
    if not few:
        axes.plot(steps, smoothed(losses), color=TUNED, lw=2.2)
        axes.text(0.985, 0.95, "line: running mean, grey: each step", transform=axes.transAxes, ha="right", va="top",
                  fontsize=9, color=GREY)  # fmt: skip
    axes.set_ylim(0, 1.08 * max(losses) or 1)
    axes.margins(x=0.02)
    axes.locator_params(axis="x", integer=True, nbins=8)
    axes.set_xlabel("optimiser step", color=GREY, fontsize=10)


def smoothed(values: list[float], weight: float = 0.7) -> list[float]:
    """Exponential running mean without the pull of its start: each value is a weighted mean of those so far."""
    means, total, mass = [], 0.0, 0.0
    for value in values:
        total, mass = weight * total + value, weight * mass + 1
        means.append(total / mass)
    return means


def _training_facts(outcome: PipelineResult, points: list[tuple[int, float]]) -> str:
    if not points:
        return ""
    seconds = outcome.timings.get("finetune")
    facts = [f"LoRA, {points[-1][0]} steps", f"{points[0][1]:.2f} → {points[-1][1]:.2f}"]
    return " · ".join([*facts, _duration(seconds)] if seconds else facts)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _bars(outcome: PipelineResult) -> list[tuple[str, ScoreSummary]]:
    scored = [(line.label, line.summary) for line in outcome.baselines if line.summary is not None]
    tuned = [("tuned", outcome.tuned)] if outcome.tuned else []
    return [*scored[: MOST_BARS - 1], *tuned]


def _draw_scores(axes: Axes, outcome: PipelineResult) -> None:
    bars = _bars(outcome)
    n = f"n = {bars[0][1].n}" if len({summary.n for _, summary in bars}) == 1 else "n differs"
    _frame(axes, "Score on the held-out rows", f"mean with its 95 % interval, {n}" if bars else "")
    if not bars:
        _say(axes, "nothing was scored")
        return
    lowest = min(0.0, *(summary.ci.low for _, summary in bars))
    highest = max(*(summary.ci.high for _, summary in bars), lowest + 1e-9)
    for place, (label, summary) in enumerate(bars):
        mean, colour = summary.mean, TUNED if label == "tuned" else BASELINE
        below, above = max(0.0, mean - summary.ci.low), max(0.0, summary.ci.high - mean)
        axes.bar(place, mean, width=0.55, color=colour)
        axes.errorbar(place, mean, yerr=[[below], [above]], color=INK, lw=1.4, capsize=5, capthick=1.4)
        above_all = summary.ci.high + 0.03 * (highest - lowest)
        axes.text(place, above_all, f"{mean:.2f}", ha="center", fontsize=11, fontweight="bold", color=INK)
    axes.set_ylim(lowest, highest + 0.16 * (highest - lowest))
    axes.set_xlim(-0.6, len(bars) - 0.4)
    room, size = (18, 11) if len(bars) < 5 else (11, 9)
    axes.set_xticks(range(len(bars)), [_short(label.replace("_", "-"), room) for label, _ in bars])
    axes.tick_params(axis="x", labelsize=size, labelcolor=INK)


def _frame(axes: Axes, title: str, facts: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=22)
    axes.text(0, 1.035, facts, transform=axes.transAxes, fontsize=9.5, color=GREY)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT)
    axes.tick_params(length=0, labelcolor=GREY, labelsize=9.5)
    axes.tick_params(axis="x", pad=8)
    axes.grid(axis="y", color=LIGHT, lw=0.6)
    axes.set_axisbelow(True)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])


def _caption(figure: Figure, outcome: PipelineResult) -> None:
    """Below both: the verdict in its colour, the difference with its interval, and what it rests on."""
    comparison = outcome.comparison
    if comparison is None:
        figure.text(0.06, 0.06, "no comparison was made", fontsize=11, color=GREY)
        return
    verdict = comparison.verdict.value
    figure.text(0.06, 0.09, verdict, fontsize=14, fontweight="bold", color=VERDICT_INK[verdict])
    figure.text(0.185, 0.092, difference_line(comparison, best_baseline(outcome)), fontsize=12, color=INK)
    figure.text(0.185, 0.035, grounds_line(comparison), fontsize=10.5, color=GREY)


def best_baseline(outcome: PipelineResult) -> str:
    """The label of the baseline that the outcome's comparison is against, or ``baseline``."""
    assert outcome.comparison is not None
    against = outcome.comparison.baseline.rsplit("/", 1)[-1]
    matching = [line.label for line in outcome.baselines if line.evaluation.rsplit("/", 1)[-1] == against]
    return matching[0].replace("_", "-") if matching else "baseline"


def difference_line(comparison: Comparison, against: str) -> str:
    """``tuned − base = +0.52   95 % interval +0.41 to +0.62   n = 100``."""
    interval = f"95 % interval {_signed(comparison.ci.low)} to {_signed(comparison.ci.high)}"
    return f"tuned − {against} = {_signed(comparison.delta)}     {interval}     n = {comparison.n}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def grounds_line(comparison: Comparison) -> str:
    """``54 wins, 2 losses, 44 ties · McNemar p = 1e-13 · about 640 rows would decide``."""
    parts = [f"{comparison.wins} wins, {comparison.losses} losses, {comparison.ties} ties"]
    if comparison.p_value is not None:
        parts.append(f"exact McNemar p = {comparison.p_value:.2g}")
    if comparison.rows_needed is not None:
        parts.append(f"about {comparison.rows_needed:,} rows in all would decide")
    return "   ·   ".join(parts)

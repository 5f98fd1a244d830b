"""The picture of one pipeline: how the loss fell, and what the model came to beside its baselines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from fw_sdk.pictures.style import (
    BASELINE,
    GREY,
    INK,
    LIGHT,
    TUNED,
    canvas,
    frame,
    headline,
    save,
    say,
    shortened,
    verdict,
)
from fw_sdk.types import PipelineResult, ScoreSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 6


def draw_pipeline(outcome: PipelineResult, path: Path) -> Path:
    """Write a PNG of 1200 x 500 pixels: the training loss on the left, scores with 95 % intervals on the right.

    Parts that the outcome lacks (a pipeline without fine-tune, a score that failed) are left out and said.
    Returns ``path``; missing folders are made.
    """
    figure = canvas()
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.1))
    figure.subplots_adjust(left=0.06, right=0.985, top=0.78, bottom=0.26, wspace=0.16)
    headline(figure, _models(outcome))
    _draw_loss(left, outcome)
    _draw_scores(right, outcome)
    _caption(figure, outcome)
    save(figure, path)
    return path


def _models(outcome: PipelineResult) -> str:
    adapter = shortened(outcome.adapter) if outcome.adapter else None
    return f"{shortened(outcome.model)}  →  {adapter}" if adapter else shortened(outcome.model)


def _draw_loss(axes: Axes, outcome: PipelineResult) -> None:
    points = [(step, loss) for step, loss in outcome.loss if math.isfinite(loss)]
    frame(axes, "Training loss", _training_facts(outcome, points))
    if not points:
        say(axes, "no training loss was recorded")
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
    frame(axes, "Score on the held-out rows", f"mean with its 95 % interval, {n}" if bars else "")
    if not bars:
        say(axes, "nothing was scored")
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
    axes.set_xticks(range(len(bars)), [shortened(label.replace("_", "-"), room) for label, _ in bars])
    axes.tick_params(axis="x", labelsize=size, labelcolor=INK)


def _caption(figure: Figure, outcome: PipelineResult) -> None:
    if outcome.comparison is None:
        figure.text(0.06, 0.06, "no comparison was made", fontsize=11, color=GREY)
    else:
        verdict(figure, outcome.comparison, "tuned", best_baseline(outcome))


def best_baseline(outcome: PipelineResult) -> str:
    """The label of the baseline that the outcome's comparison is against, or ``baseline``."""
    assert outcome.comparison is not None
    against = outcome.comparison.baseline.rsplit("/", 1)[-1]
    matching = [line.label for line in outcome.baselines if line.evaluation.rsplit("/", 1)[-1] == against]
    return matching[0].replace("_", "-") if matching else "baseline"

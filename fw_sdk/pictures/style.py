"""What the pictures share: size, colours, axes, and the words that state a difference.

matplotlib is imported when a picture is drawn and not before: the CLI must start fast without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

from fw_sdk.types import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX, DPI = 1200, 500, 100
INK, GREY, LIGHT, BASELINE, TUNED = "#1f2933", "#6b7785", "#c9d1d9", "#9aa7b4", "#1769aa"
VERDICT_INK = {"better": "#18794e", "worse": "#b42318", "inconclusive": "#8a6100", "invalid": GREY}


def canvas() -> Figure:
    """An empty white figure that no window will show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_PX / DPI, HEIGHT_PX / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, target: Path | IO[bytes]) -> None:
    """Write a PNG of 1200 x 500 pixels; missing folders are made."""
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="png", dpi=DPI)


def headline(figure: Figure, text: str) -> None:
    """The line above everything."""
    figure.text(0.06, 0.93, text, fontsize=14, fontweight="bold", color=INK)


def verdict(figure: Figure, comparison: Comparison, what: str, against: str) -> None:
    """Below everything: the verdict in its colour, the difference with its interval, and what it rests on."""
    said = comparison.verdict.value
    figure.text(0.06, 0.09, said, fontsize=14, fontweight="bold", color=VERDICT_INK[said])
    figure.text(0.185, 0.092, difference_line(comparison, what, against), fontsize=12, color=INK)
    figure.text(0.185, 0.035, grounds_line(comparison), fontsize=10.5, color=GREY)


def shortened(name: str, most: int = 40) -> str:
    """The id in a resource name, cut at ``most`` characters."""
    last = name.rsplit("/", 1)[-1]
    return last if len(last) <= most else last[: most - 1] + "…"


def frame(axes: Axes, title: str, facts: str) -> None:
    """Axes with a title, a line of facts under it, and little else."""
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=22)
    axes.text(0, 1.035, facts, transform=axes.transAxes, fontsize=9.5, color=GREY)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT)
    axes.tick_params(length=0, labelcolor=GREY, labelsize=9.5)
    axes.tick_params(axis="x", pad=8)
    axes.grid(axis="y", color=LIGHT, lw=0.6)
    axes.set_axisbelow(True)


def say(axes: Axes, text: str) -> None:
    """Words in the place of a drawing."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])


def difference_line(comparison: Comparison, what: str, against: str) -> str:
    """``tuned − base = +0.52   95 % interval +0.41 to +0.62   n = 100``."""
    interval = f"95 % interval {_signed(comparison.ci.low)} to {_signed(comparison.ci.high)}"
    return f"{what} − {against} = {_signed(comparison.delta)}     {interval}     n = {comparison.n}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def grounds_line(comparison: Comparison) -> str:
    """``54 wins, 2 losses, 44 ties · McNemar p = 1e-13 · about 640 rows would decide``."""
    parts = [f"{comparison.wins} wins, {comparison.losses} losses, {comparison.ties} ties"]
    if comparison.p_value is not None:
        parts.append(f"exact McNemar p = {comparison.p_value:.2g}")
    failed = (comparison.baseline_failed_rows, comparison.candidate_failed_rows)
    if any(failed):
        parts.append(f"rows without a score: baseline {failed[0]}, candidate {failed[1]}")
    if comparison.rows_needed is not None:
        parts.append(f"about {comparison.rows_needed:,} rows in all would decide")
    return "   ·   ".join(parts)

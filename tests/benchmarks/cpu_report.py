"""The CPU benchmark's table: what was measured beside its peer, and what it must reach."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.cpu_accuracy import Distance
from tests.benchmarks.report import table

Figures = dict[str, dict[str, list[float]]]
"""By work and side, one figure a round."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: what was done, by its name in the figures.
        title: what the table calls it.
        unit: of the figures.
        ours, peer: two sides of that work.
        must, goal: the least ratio of ours to the peer's, or where ``ratio`` is false the most that ours may be.
        ratio: which of the two.
    """

    work: str
    title: str
    unit: str
    ours: str
    peer: str
    must: float
    goal: float
    ratio: bool = True

    def limit(self, value: float) -> str:
        """``must`` or ``goal`` as text."""
        return f"≥ {value:g}x" if self.ratio else f"≤ {value:g} {self.unit}"

    def measured(self, sides: Collection[str]) -> bool:
        """Whether those sides are enough for its limits: a ratio needs the peer."""
        return self.ours in sides and (self.peer in sides or not self.ratio)

    def reached(self, value: float, ratio: float | None) -> str:
        """Which of the two limits the median ``value`` and its ratio to the peer's keep."""
        signed = (ratio or 0.0) if self.ratio else -value
        must, goal = (self.must, self.goal) if self.ratio else (-self.must, -self.goal)
        return "goal" if signed >= goal else "must" if signed >= must else "missed"


FAST = "fw, numerics fast"
ROWS = (
    Row("decode", "decode, 1 stream, 128 tokens after 16", "tok/s", "fw", "llama.cpp", 2.0, 3.0),
    Row("prefill", "prefill, 512 tokens", "tok/s", "fw", "vLLM", 1.1, 1.5),
    Row("prefill", "prefill, 512 tokens", "tok/s", "fw", "llama.cpp", 3.0, 5.0),
    Row("streams", "32 streams, 128 tokens in, 128 out", "output tok/s", "fw", "vLLM", 1.5, 3.0),
    Row("decode", "decode, numerics fast", "tok/s", FAST, "llama.cpp", 2.0, 3.0),
    Row("prefill", "prefill, numerics fast", "tok/s", FAST, "vLLM", 1.1, 1.5),
    Row("prefill", "prefill, numerics fast", "tok/s", FAST, "llama.cpp", 3.0, 5.0),
    Row("streams", "32 streams, numerics fast", "output tok/s", FAST, "vLLM", 1.5, 3.0),
    Row("training", "LoRA training, bfloat16", "row tok/s", "fw", "PEFT", 1.5, 2.5),
    Row("http", "the same over HTTP, beside in process", "tok/s", "fw over HTTP", "fw", 0.8, 0.8),
    Row("start", "process start to first token", "s", "fw", "vLLM", 4.0, 2.5, ratio=False),
    Row(
        "memory",
        "resident, serving 1 stream, worker",
        "MiB",
        "fw over HTTP",
        "import torch",
        800,
        550,
        ratio=False,
    ),
    Row("memory", "resident, generating, engine in process", "MiB", "fw", "import torch", 800, 550, ratio=False),
)


def spread(values: Sequence[float]) -> str:
    """``median (least–most)``, with a decimal where figures are small."""
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def line(row: Row, sides: Mapping[str, Sequence[float]]) -> list[str]:
    """A row's cells; a peer that was not measured is a dash."""
    ours, peer = sides[row.ours], sides.get(row.peer)
    value = statistics.median(ours)
    ratio = value / statistics.median(peer) if peer else None
    return [
        row.title,
        row.unit,
        spread(ours),
        row.peer,
        spread(peer) if peer else "–",
        "–" if ratio is None else f"{ratio:.2f}",
        row.limit(row.must),
        row.limit(row.goal),
        row.reached(value, ratio),
    ]


def speed_table(figures: Figures) -> str:
    """Everything that has been measured, a ratio beside its peer."""
    header = ["work", "unit", "fw", "peer", "peer's", "fw / peer", "must", "goal", "reached"]
    rows = [line(row, figures[row.work]) for row in ROWS if row.measured(figures.get(row.work, {}))]
    return table(header, rows)


def accuracy_table(distances: Mapping[str, Distance]) -> str:
    """How far each side is from float32."""
    header = [
        "side",
        "next token's log-probability, rms difference",
        "mean difference",
        "divergence",
        "same best token",
    ]
    rows = [
        [side, f"{item.rms:.4f}", f"{item.mean:.4f}", f"{item.divergence:.5f}", f"{item.agreement:.1%}"]
        for side, item in distances.items()
    ]
    return table(header, rows)

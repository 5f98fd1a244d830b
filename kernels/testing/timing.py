"""How long a call takes on a GPU: medians over replays of a CUDA graph, so that the host is not in it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Call = Callable[[], Any]

FEWEST, MOST = 5, 200


@dataclass(frozen=True)
class Timing:
    """What was measured.

    Attributes:
        us: median of one call, in microseconds.
        repeats: how many medians are of.
        how: ``graph``, or ``launched`` for what a CUDA graph cannot hold, the host's time included.
    """

    us: float
    repeats: int
    how: str


class Timer(Protocol):
    """Measures calls."""

    def measure(self, calls: Sequence[Call], seconds: float) -> Timing:
        """The time of one of ``calls``, which do the same on different memory; takes about ``seconds``."""
        ...

    def usable(self) -> bool:
        """Whether the device still answers: after an illegal access a process can do nothing more with it."""
        ...


class GraphTimer:
    """Times replays of a CUDA graph on the current device."""

    def measure(self, calls: Sequence[Call], seconds: float) -> Timing:
        """Median time of one call, replayed from a graph, or launched where no graph can hold it.

        Raises:
            whatever a call raises.
        """
        for call in calls[:2]:  # compiles, and finds what is wrong with it, outside the graph
            call()
        torch.cuda.synchronize()
        try:
            replay, how = self._captured(calls), "graph"
        except RuntimeError:
            torch.cuda.synchronize()
            replay, how = lambda: [call() for call in calls], "launched"
        replay()
        once = self._ms(replay)
        repeats = int(min(MOST, max(FEWEST, seconds * 1e3 / max(once, 1e-3))))
        taken = [self._ms(replay) for _ in range(repeats)]
        return Timing(statistics.median(taken) * 1e3 / len(calls), repeats, how)

    def usable(self) -> bool:
        """Whether the device can still be synchronised."""
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
        return True

    @staticmethod
    def _captured(calls: Sequence[Call]) -> Call:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return graph.replay

    @staticmethod
    def _ms(replay: Call) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

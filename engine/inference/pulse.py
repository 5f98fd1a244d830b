"""How the engine's thread is doing: how fast it computes, whether a step hangs, how often steps failed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Literal

MAX_WAIT_S = 60


@dataclass(frozen=True)
class Health:
    """What ``/health`` says.

    Attributes:
        status: ``ok``; ``stalled`` if a step takes too long to be one; ``dead`` if nothing is computed any more.
        error: of the last step that failed, if one did.
        restarts: how often the engine began anew.
        step_s: seconds since the step in progress began; None between steps.
    """

    status: Literal["ok", "stalled", "dead"]
    error: str | None
    restarts: int
    step_s: float | None

    def fields(self) -> dict[str, Any]:
        """As JSON, absent when there is nothing to say."""
        step = None if self.step_s is None or self.status == "ok" else round(self.step_s, 1)
        fields = {"error": self.error, "restarts": self.restarts or None, "secondsSinceLastStep": step}
        return {"status": self.status, **{name: value for name, value in fields.items() if value is not None}}


class Pulse:
    """Times steps. The engine's thread writes, any thread reads.

    Args:
        stall_s: a step that takes longer hangs.
        window_s: the rate is that of about the last so many seconds of computing.
    """

    def __init__(self, *, stall_s: float, window_s: float = 10.0) -> None:
        self._stall_s, self._window_s = stall_s, window_s
        self._began: float | None = None
        self._tokens = self._seconds = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._began = time.monotonic()

    def end(self, tokens: int) -> None:
        """It has ended, with so many tokens computed."""
        assert self._began is not None
        took, self._began = time.monotonic() - self._began, None
        kept = math.exp(-took / self._window_s)
        self._tokens, self._seconds = self._tokens * kept + tokens, self._seconds * kept + took

    def stop(self) -> None:
        """It has ended without a result."""
        self._began = None

    @property
    def step_s(self) -> float | None:
        """Seconds since the step in progress began."""
        began = self._began
        return None if began is None else time.monotonic() - began

    @property
    def stalled(self) -> bool:
        """Whether the step in progress hangs."""
        step_s = self.step_s
        return step_s is not None and step_s > self._stall_s

    def wait_s(self, tokens: float) -> int:
        """Whole seconds that so many tokens take at the present rate, from 1 to ``MAX_WAIT_S``."""
        if not self._seconds or not self._tokens:
            return 1
        return min(MAX_WAIT_S, max(1, math.ceil(tokens * self._seconds / self._tokens)))

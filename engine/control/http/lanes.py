"""Slow work has threads of its own, a few for each class, so that what is quick never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from fw_sdk.types import FwError

P = ParamSpec("P")
T = TypeVar("T")
RETRY_AFTER_S = 5


class Lane:
    """One class of slow work.

    Args:
        what: what is done, in the plural.
        at_once: how many threads do it.
        waiting: how many requests may wait for one of them; the next one is told to come back.
    """

    def __init__(self, what: str, at_once: int, waiting: int) -> None:
        self._what, self._most = what, at_once + waiting
        self._threads = CapacityLimiter(at_once)
        self._entered = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``function`` returns; ``resource_exhausted`` at once if too many wait already."""
        if self._entered >= self._most:
            raise FwError(
                "resource_exhausted",
                f"{self._entered} {self._what} are under way or waiting already.",
                not_done="this one was not begun",
                hint="wait for one of them to end and try again",
                details={"retryAfterS": RETRY_AFTER_S},
            )
        self._entered += 1
        try:
            return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._threads)
        finally:
            self._entered -= 1


@dataclass(frozen=True)
class Lanes:
    """The classes of slow work of one app.

    Attributes:
        evaluators: runs of an evaluator's code.
        rows: reading and checking whole files of rows.
        estimates: what counts tokens or asks a hub.
    """

    evaluators: Lane = field(default_factory=lambda: Lane("checks of evaluators", 4, 32))
    rows: Lane = field(default_factory=lambda: Lane("requests that read whole datasets", 4, 32))
    estimates: Lane = field(default_factory=lambda: Lane("estimates", 4, 32))

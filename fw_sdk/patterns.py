"""A regular expression from outside: compiled within bounds, and matched for a bounded time."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Iterable

import regex

from fw_sdk.types import FwError

MAX_CHARS = 200
MAX_REPEATS = 100_000
"""Limit on the product of all counted repeats: each is laid out in memory when the expression is compiled."""
BUDGET_S = 1.0


class Pattern:
    """A regular expression in Python's syntax that ignores case.

    All searches with one pattern last ``BUDGET_S`` together. The interpreter runs other threads meanwhile, so a server
    should search in a thread.

    Args:
        source: the expression.
        param: the argument that it comes from, for errors.

    Raises:
        FwError: ``invalid_argument`` if it is none, or too large.
    """

    def __init__(self, source: str, param: str = "grep") -> None:
        self.pattern = source
        self._param = param
        self._left_s = BUDGET_S
        if len(source) > MAX_CHARS:
            raise self._refused(f"the expression has {len(source)} characters; the limit is {MAX_CHARS}", "shorten it")
        try:
            self._check_syntax()
            self._check_repeats()
            self._compiled = regex.compile(source, regex.IGNORECASE)
        except (re.error, regex.error, OverflowError, RecursionError, ValueError) as error:
            raise self._refused(f"{error}", "escape the special characters with a backslash") from None

    def search(self, text: str) -> bool:
        """Whether it matches anywhere in ``text``; ``FwError`` when the time for this pattern is over."""
        began = time.monotonic()
        try:
            return self._compiled.search(text, timeout=max(self._left_s, 0.001), concurrent=True) is not None
        except (TimeoutError, MemoryError):
            raise self._refused(
                f"'{self.pattern}' takes longer than {BUDGET_S:g} s on this text, or all memory",
                "repeat nothing that repeats itself, as (a+)+ does; search for plain words",
            ) from None
        finally:
            self._left_s -= time.monotonic() - began

    def among(self, texts: Iterable[str]) -> list[bool]:
        """For each of ``texts`` whether it matches; raises as ``search``."""
        return [self.search(text) for text in texts]

    def _check_syntax(self) -> None:
        """What only ``regex`` knows is kept out: its recursion takes memory without bound."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(self.pattern, re.IGNORECASE)

    def _check_repeats(self) -> None:
        counts = [max(int(number) for number in pair if number) for pair in _COUNTED.findall(self.pattern)]
        if math.prod(max(count, 1) for count in counts) > MAX_REPEATS:
            raise self._refused(
                f"the counted repeats of '{self.pattern}' multiply to more than {MAX_REPEATS}", "use * or + instead"
            )

    def _refused(self, problem: str, hint: str) -> FwError:
        return FwError(
            "invalid_argument",
            f"{self._param}: {problem}.",
            not_done="Nothing was searched.",
            hint=hint,
            param=self._param,
        )


_COUNTED = re.compile(r"\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}|\{\s*,\s*(\d+)\s*\}")

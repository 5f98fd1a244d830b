"""Compiling grammars in threads of their own, so that a slow one keeps nobody waiting but its own request."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from engine.text.grammar import Grammar, GrammarCompiler, GrammarSpec
from fw_sdk.types import FwError

THREADS = 2
MAX_WAITING = 64


class GrammarPool:
    """A compiler behind a few threads and a bounded queue.

    Args:
        compiler: for the model's vocabulary.
    """

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._compiler = compiler
        self._threads = ThreadPoolExecutor(THREADS, "grammar")
        self._waiting = 0

    async def compile(self, spec: GrammarSpec) -> Grammar:
        """The compiled grammar.

        Raises:
            FwError: what ``GrammarCompiler.compile`` raises, and ``resource_exhausted`` if too many wait.
        """
        if self._waiting >= MAX_WAITING:
            raise FwError(
                "resource_exhausted",
                f"{self._waiting} grammars wait to be compiled",
                not_done="nothing was generated",
                hint="try again in a second",
                details={"retryAfterS": 1},
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._compiler.compile, spec)
        except FwError as error:  # the compiler remembers its refusals; each request marks its own
            raise FwError.from_dict(error.to_dict()) from None
        finally:
            self._waiting -= 1

"""A request on its way through the engine: the tokens known so far and how many of them are computed."""

from __future__ import annotations

import time
from array import array

import numpy as np
import numpy.typing as npt

from engine.inference.prefix import Chain, MissReason
from engine.inference.request import Request


class Sequence:
    """The state that changes while a request runs. Only the scheduler and the engine write it.

    There is no prefill and no decoding here: a sequence has ``known`` tokens of which ``computed`` have keys and
    values, and each step brings the second number closer to the first. When they are equal, a token is drawn and
    becomes known.

    Attributes:
        request: what was asked.
        arrival: order of arrival, smaller is older.
        adapter_id: identity of the adapter's weights (0 is the base), part of what makes pages shareable.
        tokens: ``[limit]`` int32; the first ``known`` are set, and behind them ``drafted`` guesses.
        address: where ``tokens`` begins in memory.
        limit: tokens at which the sequence ends at the latest.
        pages: page numbers, int32, in the order of positions.
        chain: where the sequence stands in the prefix index.
        cached: prompt tokens found in the prefix index at the first admission.
        cache_miss: why the rest of the prompt was not found there.
        arrived_s, admitted_s: when it came, and when it first got pages, on the clock of ``time.perf_counter``.
        preemptions: how often its pages were taken away.
        drafted: guesses at the next tokens that the next step computes too, see ``speculation``.
        placeholders: tokens behind the known ones that launched steps draw and that were not read back yet.
        scored: how many of the first tokens need no logits, but for the last known one. All of them, unless
            log-probabilities of the prompt were asked for: then it follows ``computed`` through the prompt and never
            goes back.
        waited: steps that it stood at the head of its queue while nothing of the queue ran.
    """

    __slots__ = (
        "adapter_id",
        "address",
        "admitted_s",
        "arrival",
        "arrived_s",
        "cache_miss",
        "cached",
        "chain",
        "computed",
        "drafted",
        "known",
        "limit",
        "pages",
        "placeholders",
        "preemptions",
        "request",
        "scored",
        "tokens",
        "waited",
    )

    def __init__(self, request: Request, *, arrival: int, limit: int, adapter_id: int = 0) -> None:
        prompt = len(request.prompt)
        self.request = request
        self.arrival = arrival
        self.adapter_id = adapter_id
        self.limit = limit
        self.tokens: npt.NDArray[np.int32] = np.empty(limit, np.int32)
        self.tokens[:prompt] = request.prompt
        self.address: int = self.tokens.ctypes.data
        self.known = prompt
        self.computed = 0
        self.pages: array[int] = array("i")
        self.chain: Chain | None = None
        self.cached = 0
        self.cache_miss: MissReason | None = None
        self.arrived_s = self.admitted_s = time.perf_counter()
        self.preemptions = 0
        self.drafted = self.placeholders = 0
        self.scored = limit if request.sampling.prompt_logprobs is None else 0
        self.waited = 0

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def pending(self) -> int:
        """Known and placeholder tokens that are not computed yet."""
        return self.known + self.placeholders - self.computed

    @property
    def complete(self) -> bool:
        """Whether the placeholder tokens are its last, whatever they are."""
        return self.placeholders > 0 and self.known + self.placeholders >= self.limit

    @property
    def generated(self) -> int:
        """Tokens drawn so far."""
        return self.known - len(self.request.prompt)

    @property
    def drafts(self) -> list[int]:
        """The guesses at the tokens behind the known ones."""
        drafts: list[int] = self.tokens[self.known : self.known + self.drafted].tolist()
        return drafts

    def settle(self) -> None:
        """Forget the guesses once they are judged: keys and values of the last known token are yet to be computed.

        Pages keep what was computed behind it; it is overwritten before it is read.
        """
        self.drafted = 0
        self.computed = min(self.computed, self.known - 1)

    def append(self, token: int) -> None:
        """Make a drawn token known, in place of the first placeholder if there is one."""
        self.tokens[self.known] = token
        self.known += 1
        self.placeholders = max(0, self.placeholders - 1)

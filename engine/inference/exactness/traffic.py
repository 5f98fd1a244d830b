"""Random traffic: requests that come and go, share prefixes, bring adapters, run out of pages and are cancelled."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import count

from engine.inference.config import EngineConfig
from engine.inference.engine import Engine
from engine.inference.request import Output, Request, SamplingParams

ALPHABET = 16
"""Different tokens in prompts; few, so that what was seen before is seen again."""
SHARED = 3
"""Prefixes that prompts are drawn from."""
LONGEST = 170
"""Tokens of a request at most, prompt and answer together."""
ARRIVING, CANCELLED, ADAPTED, CONTINUED, CUT = 0.35, 0.05, 0.4, 0.3, 0.2
"""Shares: of steps with an arrival and with a cancel; of requests with an adapter, that go on where an answer ended,
and that begin somewhere in a shared prefix."""


@dataclass(frozen=True)
class Phase:
    """How an engine is sized, and how much is asked of it.

    Attributes:
        page_size: tokens per page.
        pages: in the cache; few make sequences give up theirs.
        batch: tokens per step; few cut prompts into chunks.
        running: requests at the same time.
        cached: whether prefixes are found again.
        guessed: whether tokens are guessed from what followed the same ones before.
    """

    page_size: int
    pages: int
    batch: int
    running: int
    cached: bool = True
    guessed: bool = False

    def config(self, page_bytes: int) -> EngineConfig:
        """For a model whose pages take so many bytes."""
        return EngineConfig(
            page_size=self.page_size,
            kv_bytes=self.pages * page_bytes,
            max_batched_tokens=self.batch,
            max_running=self.running,
            prefix_cache=self.cached,
            speculation="lookup" if self.guessed else "off",
        )


PHASES = (
    Phase(16, 160, 256, 24),
    Phase(16, 13, 64, 20),
    Phase(16, 100, 17, 5, cached=False),
    Phase(16, 40, 64, 24, guessed=True),
)


@dataclass
class Answer:
    """What one request has got so far.

    Attributes:
        request: the request.
        tokens: sampled.
        logprobs: of these, as sampled.
        finished: whether nothing more will come.
    """

    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False


@dataclass
class Happened:
    """What the traffic was, in counts.

    Attributes:
        cached_tokens: of prompts, found in the cache.
        chunked: prompts that no step could take whole.
        adapted: requests with an adapter.
        drafted: tokens that were guessed, and verified.
    """

    requests: int = 0
    steps: int = 0
    cancels: int = 0
    preemptions: int = 0
    cached_tokens: int = 0
    chunked: int = 0
    adapted: int = 0
    drafted: int = 0


class Traffic:
    """Asks engines for tokens at random; the same seed asks for the same.

    Args:
        vocabulary: of the model.
        adapters: names that every engine has loaded.
        seed: of everything.
    """

    def __init__(self, vocabulary: int, adapters: tuple[str, ...], seed: int) -> None:
        self._random = random.Random(seed)
        self._alphabet = [self._random.randrange(vocabulary) for _ in range(ALPHABET)]
        self._adapters = adapters
        self._prefixes = [self._tokens(self._random.randint(8, 70)) for _ in range(SHARED)]
        self._numbers = count()
        self.happened = Happened()

    def run(self, engine: Engine, tokens: int, batch: int) -> list[Answer]:
        """Sample at least ``tokens`` tokens from an engine whose steps take ``batch`` tokens."""
        longest = min(engine.context, LONGEST)
        answers: dict[str, Answer] = {}
        sampled = 0
        while sampled < tokens:
            while not engine.has_work or self._random.random() < ARRIVING:
                request = self._arrive(list(answers.values()), longest)
                engine.add(request)
                answers[request.id] = Answer(request)
                self.happened.chunked += len(request.prompt) > batch
            if self._random.random() < CANCELLED:
                self._leave(engine, answers)
            sampled += sum(self._take(output, answers) for output in engine.step())
            self.happened.steps += 1
        for request_id in answers:
            engine.cancel(request_id)
        engine.check_integrity()
        self.happened.preemptions += engine.stats.preemptions
        self.happened.drafted += engine.stats.drafted_tokens
        return [answer for answer in answers.values() if answer.tokens]

    def _arrive(self, answers: list[Answer], longest: int) -> Request:
        dice = self._random
        if answers and dice.random() < CONTINUED:
            before = dice.choice(answers)
            known, adapter = [*before.request.prompt, *before.tokens], before.request.adapter
        else:
            known = dice.choice(self._prefixes)
            known = known[dice.randrange(len(known)) if dice.random() < CUT else 0 :]
            adapter = dice.choice(self._adapters) if dice.random() < ADAPTED else None
        prompt = [*known[: longest - 22], *self._tokens(dice.randint(0, 20))]
        sampling = SamplingParams(
            max_tokens=dice.randint(1, min(60, longest - len(prompt))),
            temperature=dice.choice((0.0, 0.7, 1.0)),
            top_p=dice.choice((1.0, 0.9)),
            seed=dice.randint(0, 1 << 30),
            logprobs=dice.choice((0, 3)),
            ignore_eos=True,
        )
        self.happened.requests += 1
        self.happened.adapted += adapter is not None
        return Request(f"r{next(self._numbers)}", tuple(prompt), sampling, adapter)

    def _leave(self, engine: Engine, answers: dict[str, Answer]) -> None:
        going = [answer for answer in answers.values() if not answer.finished]
        if going:
            answer = self._random.choice(going)
            engine.cancel(answer.request.id)
            answer.finished = True
            self.happened.cancels += 1

    def _take(self, output: Output, answers: dict[str, Answer]) -> int:
        if output.error is not None:
            raise output.error
        answer = answers[output.request_id]
        if not answer.tokens:
            self.happened.cached_tokens += output.usage.cached_tokens
        answer.finished = output.finished
        answer.tokens += output.token_ids
        answer.logprobs += [item.logprob for item in output.logprobs]
        return len(output.token_ids)

    def _tokens(self, length: int) -> list[int]:
        return self._random.choices(self._alphabet, k=length)

"""From a question to its answer: submit every choice, then collect them or stream them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from engine.inference.loop import EngineLoop
from engine.inference.philox import derive_seed
from engine.inference.request import Output, Request, SamplingParams
from engine.serving.answers import Answer, Change
from engine.serving.grammars import GrammarPool
from engine.serving.metrics import Metrics
from engine.text.grammar import Grammar, GrammarSpec
from fw_sdk.types import FwError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ask:
    """What one HTTP request wants: ``n`` choices for each prompt, choice ``p * n + i`` being the i-th of prompt p.

    Attributes:
        id: of the answer; the choices' ids begin with it.
        adapter: the adapter's name, None for the base.
        adapters: instead of one, several with weights.
        prompts: token ids.
        sampling: of the first choice; the others differ in their seeds, which are derived from it.
        priority: smaller runs earlier.
        tenant: whose it is.
        n: choices per prompt.
        grammar: what the answer must look like, still to be compiled.
        prompt_only: the prompts are only read: the one token that the engine draws anyway is kept back.
        keep_special: whether the text keeps special tokens, which a parser of the answer needs to see.
    """

    id: str
    adapter: str | None
    adapters: tuple[tuple[str, float], ...]
    prompts: Sequence[Sequence[int]]
    sampling: SamplingParams
    priority: int
    tenant: str
    n: int = 1
    grammar: GrammarSpec | None = None
    prompt_only: bool = False
    keep_special: bool = False

    def requests(self, grammar: Grammar | None) -> list[Request]:
        """One request per choice."""
        return [
            Request(
                f"{self.id}-{number}-{index}",
                tuple(prompt),
                _seeded(self.sampling, index),
                self.adapter,
                adapters=self.adapters,
                priority=self.priority,
                tenant=self.tenant,
                grammar=grammar,
                keep_special=self.keep_special,
            )
            for number, prompt in enumerate(self.prompts)
            for index in range(self.n)
        ]


class Writer(Protocol):
    """How one endpoint writes an answer: whole, or as server-sent events.

    Attributes:
        answers: one per choice, to be filled.
    """

    answers: Sequence[Answer]

    def whole(self) -> dict[str, Any]:
        """The finished answer as JSON."""
        ...

    def begin(self) -> Iterable[bytes]:
        """Events before anything was generated."""
        ...

    def write(self, index: int, output: Output, changes: Sequence[Change]) -> Iterable[bytes]:
        """Events for an output of choice ``index``, which its answer has taken in already."""
        ...

    def end(self) -> Iterable[bytes]:
        """Events after every choice is finished."""
        ...

    def fail(self, error: FwError) -> Iterable[bytes]:
        """Events instead of ``end`` if something goes wrong on the way."""
        ...


class Choices:
    """The choices of one ``Ask``, running.

    Args:
        streams: their outputs.
        prompt_only: see ``Ask``.
    """

    def __init__(self, streams: Sequence[AsyncGenerator[Output, None]], *, prompt_only: bool) -> None:
        self._streams = streams
        self._prompt_only = prompt_only

    @classmethod
    async def submit(cls, ask: Ask, loop: EngineLoop, metrics: Metrics, grammars: GrammarPool) -> Choices:
        """Compile the grammar if there is one, and submit every choice.

        Raises:
            FwError: if any of them is refused; then none runs.
        """
        grammar = None if ask.grammar is None else await grammars.compile(ask.grammar)
        streams = [metrics.watch(stream) for stream in loop.submit_all(ask.requests(grammar))]
        return cls(streams, prompt_only=ask.prompt_only)

    async def collect(self, writer: Writer) -> dict[str, Any]:
        """The whole answer."""
        async with aclosing(self._outputs()) as outputs:
            async for index, output in outputs:
                writer.answers[index].add(output)
        return writer.whole()

    async def events(self, writer: Writer) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events; an error after the beginning is an event, too."""
        for event in writer.begin():
            yield event
        try:
            async with aclosing(self._outputs()) as outputs:
                async for index, output in outputs:
                    changes = writer.answers[index].add(output)
                    for event in writer.write(index, output, changes):
                        yield event
            last = writer.end()
        except FwError as error:
            last = writer.fail(error)
        except Exception as error:
            log.exception("an answer broke off")
            last = writer.fail(FwError("internal", f"{type(error).__name__} in the worker"))
        for event in last:
            yield event

    async def _outputs(self) -> AsyncGenerator[tuple[int, Output], None]:
        """Outputs of all choices as they come, with the number of their choice; leaving it cancels all of them."""
        streams = self._streams
        if len(streams) == 1:  # nothing to wait for side by side: spare every token its task
            async with aclosing(streams[0]) as only:
                async for item in only:
                    yield 0, self._shown(item)
            return
        waiting = {asyncio.ensure_future(_next(stream)): index for index, stream in enumerate(streams)}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    index, output = waiting.pop(task), task.result()
                    if output is not None:
                        waiting[asyncio.ensure_future(_next(streams[index]))] = index
                        yield index, self._shown(output)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _shown(self, output: Output) -> Output:
        if not self._prompt_only:
            return output
        usage = replace(output.usage, completion_tokens=0)
        return replace(
            output, token_ids=(), text="", logprobs=(), weight_versions=(), finish_reason="length", usage=usage
        )


def sse(value: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _seeded(sampling: SamplingParams, index: int) -> SamplingParams:
    return sampling if index == 0 else replace(sampling, seed=derive_seed(sampling.seed, index))


async def _next(stream: AsyncGenerator[Output, None]) -> Output | None:
    return await anext(stream, None)

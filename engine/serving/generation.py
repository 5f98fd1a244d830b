"""From a parsed request to its answer: submit every choice, then collect them or stream them."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from engine.inference.loop import EngineLoop
from engine.inference.philox import derive_seed
from engine.inference.request import Output, Request, SamplingParams
from engine.serving.formats import Answer, Format, usage_fields
from engine.serving.metrics import Metrics
from fw_sdk.types import FwError


@dataclass(frozen=True)
class Ask:
    """One HTTP request: ``n`` choices for each prompt, choice ``p * n + i`` being the i-th of prompt p.

    Attributes:
        model: the name that was asked for, which the answer repeats.
        adapter: the adapter's name, None for the base.
        prompts: token ids.
        sampling: of the first choice; the others differ in their seeds, which are derived from it.
        n: choices per prompt.
        form: how the answer is written.
        include_usage: whether a stream ends with the counts.
        prompt_token_ids: whether the answer repeats the prompts' tokens.
    """

    model: str
    adapter: str | None
    prompts: Sequence[Sequence[int]]
    sampling: SamplingParams
    n: int
    form: Format
    include_usage: bool
    prompt_token_ids: bool


class Generation:
    """The choices of one ``Ask``, submitted.

    Raises:
        FwError: if any of them is refused; then none runs.
    """

    def __init__(self, ask: Ask, loop: EngineLoop, metrics: Metrics) -> None:
        self._ask = ask
        self._id = f"{ask.form.id_prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        requests = [
            Request(f"{self._id}-{number}-{index}", tuple(prompt), _seeded(ask.sampling, index), ask.adapter)
            for number, prompt in enumerate(ask.prompts)
            for index in range(ask.n)
        ]
        self._streams = [metrics.watch(stream) for stream in loop.submit_all(requests)]

    async def collect(self) -> dict[str, Any]:
        """The whole answer."""
        answers = [Answer() for _ in self._streams]
        async for index, output in _merged(self._streams):
            answers[index].add(output)
        choices = [self._ask.form.choice(index, answer) for index, answer in enumerate(answers)]
        return {**self._frame(self._ask.form.whole_object, choices), "usage": self._usage(answers)}

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events; an error after the beginning is an event, too."""
        form = self._ask.form
        answers = [Answer() for _ in self._streams]
        openings = [form.opening(index) for index in range(len(answers))]
        for opening in openings:
            if opening is not None:
                yield self._event([opening])
        try:
            async for index, output in _merged(self._streams):
                answers[index].usage = output.usage
                if output.text or output.logprobs or output.finished or self._ask.prompt_token_ids:
                    yield self._event([form.delta(index, output)])
        except FwError as error:
            yield _data(error.openai_body())
            return
        if self._ask.include_usage:
            yield self._event([], self._usage(answers))
        yield b"data: [DONE]\n\n"

    def _usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return usage_fields((index % self._ask.n == 0, answer.usage) for index, answer in enumerate(answers))

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        frame: dict[str, Any] = {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._ask.model,
            "choices": choices,
        }
        if self._ask.prompt_token_ids:
            prompts = [list(prompt) for prompt in self._ask.prompts]
            frame["prompt_token_ids"] = prompts[0] if len(prompts) == 1 else prompts
        return frame

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        frame = self._frame(self._ask.form.chunk_object, choices)
        return _data({**frame, "usage": usage} if self._ask.include_usage else frame)


def _seeded(sampling: SamplingParams, index: int) -> SamplingParams:
    return sampling if index == 0 else replace(sampling, seed=derive_seed(sampling.seed, index))


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _merged(streams: Sequence[AsyncGenerator[Output, None]]) -> AsyncIterator[tuple[int, Output]]:
    """Outputs of all streams as they come, with the number of their stream; leaving it closes all of them."""
    if len(streams) == 1:  # nothing to wait for side by side: spare every token its task
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    waiting = {asyncio.ensure_future(_next(stream)): index for index, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index, output = waiting.pop(task), task.result()
                if output is not None:
                    waiting[asyncio.ensure_future(_next(streams[index]))] = index
                    yield index, output
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _next(stream: AsyncIterator[Output]) -> Output | None:
    return await anext(stream, None)

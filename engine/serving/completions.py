"""OpenAI's completions: text or token ids in, text and token ids out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import Field, StrictStr

from engine.inference.request import MAX_LOGPROBS, Output, TokenLogprob
from engine.serving.answers import Answer, Change
from engine.serving.generation import Ask
from engine.serving.openai_shared import NEUTRAL, CompletionFields, Frame, TokenWriter, failure
from engine.serving.protocol import TokenIds, parse_inference, wrong
from engine.serving.served import Caller, Served
from engine.text import Tokenizer
from fw_sdk.types import FwError

COMPLETION_TOKENS = 16
"""Answer length if the request does not say, as OpenAI has it."""


class CompletionBody(CompletionFields):
    """Body of ``POST /v1/completions``."""

    prompt: StrictStr | list[StrictStr] | TokenIds | list[TokenIds]
    logprobs: Annotated[int, Field(strict=True, ge=0, le=MAX_LOGPROBS)] | None = None


class CompletionWriter:
    """``text_completion``, whole and in chunks."""

    def __init__(self, frame: Frame, answers: Sequence[Answer], tokens: TokenWriter, body: CompletionBody) -> None:
        self.answers = answers
        self._frame = frame
        self._tokens = tokens
        self._logprobs = body.logprobs is not None
        self._token_ids = body.return_token_ids
        self._offsets = [0] * len(answers)

    def whole(self) -> dict[str, Any]:
        """A choice per answer."""
        choices = [
            self._choice(index, answer.text, answer.logprobs, answer.token_ids, answer.finish_reason)
            for index, answer in enumerate(self.answers)
        ]
        return self._frame.complete(choices, self.answers)

    def begin(self) -> Iterable[bytes]:
        """Nothing comes before the text."""
        return ()

    def write(self, index: int, output: Output, changes: Sequence[Change]) -> Iterable[bytes]:
        """At most one chunk; none while a character or a stop string may be incomplete."""
        text = "".join(change.text for change in changes)
        if text or output.logprobs or output.finished or self._token_ids:
            choice = self._choice(index, text, output.logprobs, output.token_ids, output.finish_reason)
            yield self._frame.event([choice])

    def end(self) -> Iterable[bytes]:
        """The counts, if asked for, and ``[DONE]``."""
        return self._frame.last(self.answers)

    def fail(self, error: FwError) -> Iterable[bytes]:
        """OpenAI's envelope as the last event."""
        return failure(error)

    def _choice(
        self,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprob],
        token_ids: Iterable[int],
        reason: str | None,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
        if self._logprobs:
            texts = [self._tokens.text(item.token_id) for item in logprobs]
            choice["logprobs"] = self._tokens.columns(logprobs, texts, self._offsets[index])
            self._offsets[index] += sum(map(len, texts))
        return {**choice, "token_ids": list(token_ids)} if self._token_ids else choice


def completion(served: Served, value: Any, caller: Caller) -> tuple[CompletionBody, Ask, CompletionWriter]:
    """A completion request, checked and tokenised."""
    body = parse_inference(CompletionBody, value, NEUTRAL)
    tokenizer = served.renderer.tokenizer
    adapter = served.adapter_of(body.model)
    limit = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = body.sampling(max_tokens=limit, stop=body.stops, logprobs=body.logprobs)
    prompts = prompt_ids(body.prompt, tokenizer)
    frame = Frame(
        "cmpl",
        "text_completion",
        "text_completion",
        caller.shown or body.model,
        body.n,
        prompts,
        body.return_token_ids,
        body.stream_options is not None and body.stream_options.include_usage,
    )
    answers = [Answer() for _ in range(body.n * len(prompts))]
    writer = CompletionWriter(frame, answers, TokenWriter(tokenizer), body)
    return body, Ask(frame.id, adapter, prompts, sampling, body.n), writer


def prompt_ids(
    prompt: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]], tokenizer: Tokenizer
) -> list[Sequence[int]]:
    """Token ids of each prompt in any of the four shapes."""
    if isinstance(prompt, str):
        return [tokenizer.encode(prompt)]
    ids = [item for item in prompt if isinstance(item, int)]
    if ids:
        return [ids]
    if not prompt:
        raise wrong("prompt", "the prompt is empty")
    return [
        tokenizer.encode(item) if isinstance(item, str) else list(item) for item in prompt if not isinstance(item, int)
    ]

"""OpenAI's completions: text or token ids in, text and token ids out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictStr

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
NAMES = ("cmpl", "text_completion", "text_completion")


class CompletionBody(CompletionFields):
    """Body of ``POST /v1/completions``."""

    prompt: StrictStr | list[StrictStr] | TokenIds | list[TokenIds]
    logprobs: Annotated[int, Field(strict=True, ge=0, le=MAX_LOGPROBS)] | None = None
    echo: StrictBool = False


class CompletionWriter:
    """``text_completion``, whole and in chunks.

    With ``echo`` a choice begins with its prompt, the log-probabilities included.
    """

    def __init__(self, frame: Frame, answers: Sequence[Answer], tokens: TokenWriter, body: CompletionBody) -> None:
        self.answers = answers
        self._frame = frame
        self._tokens = tokens
        self._body = body
        self._offsets = [0] * len(answers)
        self._to_echo = set(range(len(answers))) if body.echo else set[int]()

    def whole(self) -> dict[str, Any]:
        """A choice per answer."""
        choices = [
            self._choice(
                index,
                answer.text,
                answer.prompt_logprobs,
                answer.logprobs,
                (answer.token_ids, answer.weight_versions),
                answer.finish_reason,
            )
            for index, answer in enumerate(self.answers)
        ]
        return self._frame.complete(choices, self.answers)

    def begin(self) -> Iterable[bytes]:
        """Nothing comes before the text."""
        return ()

    def write(self, index: int, output: Output, changes: Sequence[Change]) -> Iterable[bytes]:
        """At most one chunk; none while a character or a stop string may be incomplete."""
        text = "".join(change.text for change in changes)
        if text or output.logprobs or output.finished or self._body.return_token_ids or index in self._to_echo:
            drawn = (output.token_ids, output.weight_versions)
            choice = self._choice(index, text, output.prompt_logprobs, output.logprobs, drawn, output.finish_reason)
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
        prompt_logprobs: Sequence[TokenLogprob | None],
        logprobs: Sequence[TokenLogprob],
        drawn: tuple[Sequence[int], Sequence[int]],
        reason: str | None,
    ) -> dict[str, Any]:
        body, prompt = self._body, self._frame.prompts[index // self._frame.n]
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
        items, ids = list[TokenLogprob | None](logprobs), [item.token_id for item in logprobs]
        if index in self._to_echo:
            self._to_echo.remove(index)
            choice["text"] = self._tokens.joined(prompt) + text
            items, ids = [*prompt_logprobs, *items], [*prompt, *ids]
        if body.logprobs is not None:
            texts = [self._tokens.text(token) for token in ids]
            choice["logprobs"] = self._tokens.columns(items, texts, self._offsets[index])
            self._offsets[index] += sum(map(len, texts))
        if body.prompt_logprobs is not None and prompt_logprobs:
            choice["prompt_logprobs"] = self._tokens.prompt(prompt_logprobs)
        if body.return_token_ids:
            choice |= {"token_ids": list(drawn[0]), "weight_versions": list(drawn[1])}
        return choice


def completion(served: Served, value: Any, caller: Caller) -> tuple[CompletionBody, Ask, CompletionWriter]:
    """A completion request, checked and tokenised."""
    body = parse_inference(CompletionBody, value, NEUTRAL)
    tokenizer = served.renderer.tokenizer
    served.check_model(body.model)
    limit = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    wanted = [count for count in (body.prompt_logprobs, body.logprobs if body.echo else None) if count is not None]
    sampling = body.sampling(
        max_tokens=limit or 1, stop=body.stops, logprobs=body.logprobs, prompt_logprobs=max(wanted, default=None)
    )
    prompts = prompt_ids(body.prompt, tokenizer)
    frame = Frame.of(body, NAMES, caller.shown or body.model, prompts)
    answers = [Answer() for _ in range(body.n * len(prompts))]
    writer = CompletionWriter(frame, answers, TokenWriter(tokenizer), body)
    options = {"n": body.n, "grammar": body.form, "prompt_only": limit == 0}
    return body, served.ask(frame.id, body, caller, prompts, sampling, **options), writer


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

"""What OpenAI's chat completions and completions have in common: fields, frames, usage, log-probabilities."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, StrictBool, StrictInt, StrictStr

from engine.inference.request import TokenLogprob
from engine.serving.answers import Answer
from engine.serving.generation import sse
from engine.serving.protocol import InferenceBody, Neutral, SamplingBody, among, anything, empty
from engine.serving.structured import ResponseFormat, StructuredOutputs, one_grammar
from engine.text import GrammarSpec, Tokenizer
from fw_sdk.types import FwError

MAX_CHOICES = 64


class StreamOptions(InferenceBody):
    """What a stream carries besides the answer."""

    include_usage: StrictBool = False


class CompletionFields(SamplingBody):
    """What chat completions and completions share."""

    stream_options: StreamOptions | None = None
    n: StrictInt = Field(default=1, ge=1, le=MAX_CHOICES)
    max_tokens: StrictInt | None = None
    stop: StrictStr | list[StrictStr] | None = None
    return_token_ids: StrictBool = False
    prompt_logprobs: StrictInt | None = None
    structured_outputs: StructuredOutputs | None = None
    response_format: ResponseFormat | None = None

    @property
    def form(self) -> GrammarSpec | None:
        """What the answer must look like."""
        form = self.response_format.grammar() if self.response_format is not None else None
        return one_grammar(form, self.structured_outputs)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


NEUTRAL: Neutral = {
    "audio": empty,
    "best_of": among(1),
    "function_call": among("none", "auto"),
    "functions": empty,
    "metadata": anything,
    "modalities": among([], ["text"]),
    "prediction": empty,
    "prompt_cache_key": anything,
    "safety_identifier": anything,
    "service_tier": among("auto", "default"),
    "store": empty,
    "suffix": empty,
    "user": anything,
    "verbosity": among("medium"),
    "web_search_options": empty,
}
"""OpenAI's fields that change nothing at these values; other values ask for what this version cannot do."""


Names = tuple[str, str, str]
"""The prefix of an answer's id, its ``object``, and that of a chunk."""


@dataclass
class Frame:
    """The envelope of an answer and of its chunks.

    Attributes:
        prefix: of the answer's id.
        whole, chunk: its ``object``, and that of a chunk.
        model: the name to show.
        n: choices per prompt.
        prompts: token ids; repeated in the answer if ``show_prompts``.
        include_usage: whether a stream ends with the counts.
    """

    prefix: str
    whole: str
    chunk: str
    model: str
    n: int
    prompts: Sequence[Sequence[int]]
    show_prompts: bool
    include_usage: bool
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"

    @classmethod
    def of(cls, body: CompletionFields, names: Names, model: str, prompts: Sequence[Sequence[int]]) -> Frame:
        """The frame that ``body`` asks for; ``model`` is the name to show, ``names`` are those of the protocol."""
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        return cls(*names, model, body.n, prompts, body.return_token_ids, include_usage)

    def complete(self, choices: list[dict[str, Any]], answers: Sequence[Answer]) -> dict[str, Any]:
        """The whole answer."""
        return {**self._fields(self.whole, choices), "usage": self.usage(answers)}

    def event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        """A chunk as a server-sent event."""
        fields = self._fields(self.chunk, choices)
        return sse({**fields, "usage": usage} if self.include_usage else fields)

    def last(self, answers: Sequence[Answer]) -> Iterable[bytes]:
        """What a stream ends with."""
        if self.include_usage:
            yield self.event([], self.usage(answers))
        yield b"data: [DONE]\n\n"

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """OpenAI's usage object; a prompt with several choices counts once."""
        firsts = [answer.usage for answer in answers[:: self.n]]
        prompt = sum(usage.prompt_tokens for usage in firsts)
        completion = sum(answer.usage.completion_tokens for answer in answers)
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": sum(usage.cached_tokens for usage in firsts),
                "cache_miss": next((usage.cache_miss for usage in firsts if usage.cache_miss is not None), None),
            },
        }
        reasoning = sum(answer.reasoning_tokens for answer in answers)
        return {**counts, "completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning else counts

    def _fields(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        fields = {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
        if self.show_prompts:
            prompts = [list(prompt) for prompt in self.prompts]
            fields["prompt_token_ids"] = prompts[0] if len(prompts) == 1 else prompts
        return fields


def failure(error: FwError) -> list[bytes]:
    """The event that ends a stream which cannot go on."""
    return [sse(error.openai_body())]


class TokenWriter:
    """Writes tokens with their log-probabilities.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def chat(self, items: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The shape of chat completions."""
        content = [
            {
                **self._token(item.token_id, item.logprob),
                "top_logprobs": [self._token(token, value) for token, value in item.top],
            }
            for item in items
        ]
        return {"content": content, "refusal": None}

    def prompt(self, items: Sequence[TokenLogprob | None]) -> list[dict[str, Any] | None]:
        """vLLM's shape of a prompt's log-probabilities: per token the alternatives and itself, by id."""
        return [None if item is None else self._ranked(item) for item in items]

    def columns(self, items: Sequence[TokenLogprob | None], texts: Sequence[str], offset: int) -> dict[str, Any]:
        """The older shape of completions: a list per field.

        Args:
            items: per token; None where nothing precedes it.
            texts: of the tokens, each decoded alone.
            offset: where the first of them begins, in characters of such texts.
        """
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": list(texts),
            "token_logprobs": [item and item.logprob for item in items],
            "top_logprobs": [item and self._best(item) for item in items],
            "text_offset": offsets,
        }

    def text(self, token_id: int) -> str:
        """A token decoded alone."""
        return self._tokenizer.decode([token_id])

    def joined(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return self._tokenizer.decode(token_ids)

    def _ranked(self, item: TokenLogprob) -> dict[str, Any]:
        ranks: dict[int, tuple[float, int | None]] = {item.token_id: (item.logprob, None)}
        ranks.update({token: (value, place) for place, (token, value) in enumerate(item.top, 1)})
        return {
            str(token): {"logprob": value, "rank": rank, "decoded_token": self.text(token)}
            for token, (value, rank) in ranks.items()
        }

    def _best(self, item: TokenLogprob) -> dict[str, float]:
        """The most likely tokens; of several that read the same, the likeliest."""
        best: dict[str, float] = {}
        for token, value in item.top:
            best.setdefault(self.text(token), value)
        return best

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self.text(token_id),
            "logprob": logprob,
            "bytes": list(self._tokenizer.id_to_bytes(token_id)),
        }

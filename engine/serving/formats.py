"""OpenAI's two shapes of an answer: chat completions and completions, whole and in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.inference.request import Output, TokenLogprob, Usage
from engine.text import Tokenizer


@dataclass
class Answer:
    """The outputs of one choice, joined."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    def add(self, output: Output) -> None:
        """Append an output."""
        self.text += output.text
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs
        self.finish_reason = output.finish_reason
        self.usage = output.usage


class Format(Protocol):
    """How one endpoint writes its choices."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice that a stream begins with, if any."""
        ...

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """A finished choice."""
        ...

    def delta(self, index: int, output: Output) -> dict[str, Any]:
        """A choice in a chunk."""
        ...


class ChatFormat:
    """``chat.completion`` and ``chat.completion.chunk``."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool, token_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._token_ids = token_ids

    def opening(self, index: int) -> dict[str, Any] | None:
        """The role comes first, alone."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """A finished choice."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {
            "index": index,
            "message": message,
            **self._rest(answer.logprobs, answer.finish_reason, answer.token_ids),
        }

    def delta(self, index: int, output: Output) -> dict[str, Any]:
        """A choice in a chunk."""
        delta = {"content": output.text} if output.text or output.logprobs else {}
        return {"index": index, "delta": delta, **self._rest(output.logprobs, output.finish_reason, output.token_ids)}

    def _rest(self, logprobs: Sequence[TokenLogprob], reason: str | None, token_ids: Iterable[int]) -> dict[str, Any]:
        content = {"content": [self._logprob(item) for item in logprobs], "refusal": None} if self._logprobs else None
        rest: dict[str, Any] = {"logprobs": content, "finish_reason": reason}
        return {**rest, "token_ids": list(token_ids)} if self._token_ids else rest

    def _logprob(self, item: TokenLogprob) -> dict[str, Any]:
        top = [self._token(token, value) for token, value in item.top]
        return {**self._token(item.token_id, item.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._tokenizer.decode([token_id])
        return {"token": text, "logprob": logprob, "bytes": list(self._tokenizer.id_to_bytes(token_id))}


class TextFormat:
    """``text_completion``, whole and in chunks."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool, token_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._offsets: dict[int, int] = {}

    def opening(self, index: int) -> dict[str, Any] | None:
        """Nothing comes before the text."""
        return None

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """A finished choice."""
        rest = self._rest(index, answer.logprobs, answer.finish_reason, answer.token_ids)
        return {"index": index, "text": answer.text, **rest}

    def delta(self, index: int, output: Output) -> dict[str, Any]:
        """A choice in a chunk."""
        rest = self._rest(index, output.logprobs, output.finish_reason, output.token_ids)
        return {"index": index, "text": output.text, **rest}

    def _rest(
        self, index: int, logprobs: Sequence[TokenLogprob], reason: str | None, token_ids: Iterable[int]
    ) -> dict[str, Any]:
        content = self._columns(index, logprobs) if self._logprobs else None
        rest: dict[str, Any] = {"logprobs": content, "finish_reason": reason}
        return {**rest, "token_ids": list(token_ids)} if self._token_ids else rest

    def _columns(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The older shape: a list per field. Offsets count the characters of the tokens, each decoded alone."""
        text_of = self._tokenizer.decode
        texts = [text_of([item.token_id]) for item in logprobs]
        offsets = []
        for text in texts:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": texts,
            "token_logprobs": [item.logprob for item in logprobs],
            "top_logprobs": [
                {self._tokenizer.decode([token]): value for token, value in item.top} for item in logprobs
            ],
            "text_offset": offsets,
        }


def usage_fields(answers: Iterable[tuple[bool, Usage]]) -> dict[str, Any]:
    """OpenAI's usage object, from each choice's counts and whether it is its prompt's first."""
    prompt = completion = cached = 0
    for first, usage in answers:
        completion += usage.completion_tokens
        prompt += usage.prompt_tokens if first else 0
        cached += usage.cached_tokens if first else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }

"""Anthropic's messages: the answer, whole and as events."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from engine.inference.request import Output, Usage
from engine.serving.answers import Answer, Change, Part
from engine.serving.generation import Ask, sse
from engine.serving.messages import NEUTRAL, CountBody, MessagesBody
from engine.serving.protocol import parse_inference
from engine.serving.served import Caller, Served
from fw_sdk.types import FwError

SIGNATURE = "fw"
"""Stands where Anthropic signs reasoning; it is not checked when the reasoning is sent back."""
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "abort": "pause_turn"}


class MessageWriter:
    """A ``message``, or ``message_start`` … ``message_stop``.

    The counts of the prompt are known once the first token is, so ``message_start`` waits for it.
    """

    def __init__(self, identifier: str, model: str, answer: Answer) -> None:
        self.answers: Sequence[Answer] = (answer,)
        self._answer = answer
        self._id = identifier
        self._model = model
        self._started = False

    def whole(self) -> dict[str, Any]:
        """The message."""
        content = [_block(part) for part in self._answer.parts]
        return {**self._message(), "content": content, **self._stop(), "usage": self._counts()}

    def begin(self) -> Iterable[bytes]:
        """Nothing yet."""
        return ()

    def write(self, index: int, output: Output, changes: Sequence[Change]) -> Iterable[bytes]:
        """What happened to the content blocks."""
        if not self._started:
            self._started = True
            start = {**self._message(), "content": [], "stop_reason": None, "stop_sequence": None}
            usage = {**_usage(output.usage), "output_tokens": 0}
            yield _event("message_start", message={**start, "usage": usage})
        for change in changes:
            yield from _changed(change)

    def end(self) -> Iterable[bytes]:
        """Why it ended, and the counts."""
        yield _event("message_delta", delta=self._stop(), usage=self._counts())
        yield _event("message_stop")

    def fail(self, error: FwError) -> Iterable[bytes]:
        """Anthropic's envelope as the last event."""
        yield sse(error.anthropic_body(), "error")

    def _counts(self) -> dict[str, Any]:
        details = {"thinking_tokens": self._answer.reasoning_tokens}
        return {**_usage(self._answer.usage), "output_tokens_details": details}

    def _message(self) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model}

    def _stop(self) -> dict[str, Any]:
        reason = STOP_REASONS[self._answer.finish_reason or "stop"]
        if self._answer.calls and reason == "end_turn":
            reason = "tool_use"
        if self._answer.stop is not None:
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": self._answer.stop}


def message(served: Served, value: Any, caller: Caller) -> tuple[MessagesBody, Ask, MessageWriter]:
    """A message request, checked and rendered."""
    body = parse_inference(MessagesBody, value, NEUTRAL)
    served.check_model(body.model)
    sampling = body.sampling(max_tokens=body.max_tokens or 1, stop=body.stop_sequences or ())
    identifier = f"msg_{secrets.token_hex(12)}"
    talk = body.talk(served.renderer)
    options = {"grammar": talk.grammar(), "keep_special": served.renderer.keep_special}
    options["prompt_only"] = body.max_tokens == 0
    ask = served.ask(identifier, body, caller, [talk.prompt()], sampling, **options)
    return body, ask, MessageWriter(identifier, caller.shown or body.model, talk.answer())


def count_tokens(served: Served, value: Any) -> dict[str, int]:
    """How long a message request's prompt is, in tokens."""
    body = parse_inference(CountBody, value, NEUTRAL)
    served.check_model(body.model)
    return {"input_tokens": len(body.talk(served.renderer).prompt())}


def _changed(change: Change) -> Iterable[bytes]:
    part = change.part
    match change.kind:
        case "open":
            yield _event(
                "content_block_start", index=part.index, content_block=_block(Part(**{**vars(part), "text": ""}))
            )
        case "add":
            yield _event("content_block_delta", index=part.index, delta=_delta(part, change.text))
        case "close":
            if part.kind == "reasoning":
                signature = {"type": "signature_delta", "signature": SIGNATURE}
                yield _event("content_block_delta", index=part.index, delta=signature)
            yield _event("content_block_stop", index=part.index)


def _block(part: Part) -> dict[str, Any]:
    match part.kind:
        case "text":
            return {"type": "text", "text": part.text, "citations": None}
        case "reasoning":
            return {"type": "thinking", "thinking": part.text, "signature": SIGNATURE if part.text else ""}
        case "call":
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": _object(part.text)}


def _delta(part: Part, text: str) -> dict[str, Any]:
    match part.kind:
        case "text":
            return {"type": "text_delta", "text": text}
        case "reasoning":
            return {"type": "thinking_delta", "thinking": text}
        case "call":
            return {"type": "input_json_delta", "partial_json": text}


def _object(text: str) -> dict[str, Any]:
    """A call's arguments; a call that broke off has none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _usage(usage: Usage) -> dict[str, Any]:
    """Anthropic counts what was read from the cache apart from the rest of the prompt."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_miss": usage.cache_miss,
        "output_tokens": usage.completion_tokens,
    }


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)

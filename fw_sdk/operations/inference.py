"""Inference and what the server says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fw_sdk.calls import CONTROL, Call, EventStream, ServerSentEvent
from fw_sdk.exceptions import from_fields
from fw_sdk.operations.paths import nothing, present
from fw_sdk.types import Answer, FwError, Health, Overview

Messages = str | Sequence[Mapping[str, Any]]


def chat(
    model: str,
    messages: Messages,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    response_format: Mapping[str, Any] | None = None,
) -> Call[str]:
    """The answer of a deployment or model to a conversation.

    Args:
        model: a deployment's or model's id.
        messages: ``[{"role": …, "content": …}, …]``, or one user message as a string.
        max_tokens: the longest answer.
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        seed: of the draws.
        stop: texts that end the answer.
        response_format: ``{"type": "json_schema", "json_schema": {"name": …, "schema": …}}`` makes the answer fit it.
    """
    body = _chat_body(model, messages, max_tokens, temperature, top_p, seed, stop, response_format)
    return Call("POST", "/v1/chat/completions", lambda reply: _answer(reply).text, body=body)


def answer(
    model: str,
    messages: Messages,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    response_format: Mapping[str, Any] | None = None,
) -> Call[Answer]:
    """``chat`` with how the answer ended and what it took, so that one that was cut is known."""
    body = _chat_body(model, messages, max_tokens, temperature, top_p, seed, stop, response_format)
    return Call("POST", "/v1/chat/completions", _answer, body=body)


def chat_stream(
    model: str,
    messages: Messages,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    response_format: Mapping[str, Any] | None = None,
) -> EventStream[str]:
    """``chat`` in pieces, as they are generated."""
    body = _chat_body(model, messages, max_tokens, temperature, top_p, seed, stop, response_format)
    call = Call("POST", "/v1/chat/completions", nothing, body={**body, "stream": True})
    return EventStream(call, _chat_pieces)


def complete(
    model: str,
    prompt: str,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
) -> Call[str]:
    """The raw continuation of a prompt, without a chat template."""
    sampling = present(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop)
    body = {"model": model, "prompt": prompt, **sampling}
    return Call("POST", "/v1/completions", lambda reply: str(reply["choices"][0]["text"]), body=body)


def health() -> Call[Health]:
    """Whether the daemon runs, and its version; needs no token."""
    return Call("GET", "/v1/health", Health.model_validate)


def overview() -> Call[Overview]:
    """The state of everything in one reply, with the most useful next call."""
    return Call("GET", f"{CONTROL}/overview", Overview.model_validate)


def shutdown(*, keep_jobs: bool = True) -> Call[None]:
    """Stop the daemon and its workers; running jobs live on unless ``keep_jobs`` is false."""
    return Call("POST", f"{CONTROL}/daemon:shutdown", nothing, body={"keepJobs": keep_jobs})


def _chat_body(
    model: str,
    messages: Messages,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: str | Sequence[str] | None,
    response_format: Mapping[str, Any] | None,
) -> dict[str, Any]:
    conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    if not conversation:
        raise FwError("invalid_argument", "messages is empty", not_done="nothing was generated", param="messages")
    sampling = present(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop)
    sampling |= present(response_format=response_format)
    return {"model": model, "messages": conversation, **sampling}


def _answer(reply: Any) -> Answer:
    choice, usage = reply["choices"][0], reply.get("usage") or {}
    return Answer(
        text=choice["message"].get("content") or "",
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        generated_tokens=int(usage.get("completion_tokens", 0)),
    )


def _chat_pieces(event: ServerSentEvent) -> list[str]:
    if event.data.strip() == "[DONE]":
        return []
    chunk = json.loads(event.data)
    if isinstance(chunk.get("error"), dict):
        raise from_fields(chunk["error"])
    pieces = [choice.get("delta", {}).get("content") for choice in chunk.get("choices", [])]
    return [piece for piece in pieces if piece]

"""OpenAI's responses: the answer, whole and as numbered events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from engine.inference.request import Output, Usage
from engine.serving.answers import Answer, Change, Part
from engine.serving.generation import Ask, sse
from engine.serving.protocol import parse_inference
from engine.serving.responses import NEUTRAL, ResponsesBody
from engine.serving.served import Caller, Served
from engine.serving.talk import Message, tool_call
from fw_sdk.types import FwError

ID_PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}


class ResponseWriter:
    """A ``response``, or ``response.created`` … ``response.completed``.

    Args:
        body: the request.
        model: the name to show.
        answer: to be filled.
        keep: called with the finished response.
    """

    def __init__(self, body: ResponsesBody, model: str, answer: Answer, keep: Callable[[dict[str, Any]], None]) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self.answers: Sequence[Answer] = (answer,)
        self._answer = answer
        self._body = body
        self._model = model
        self._keep = keep
        self._created = time.time()
        self._number = 0

    def whole(self) -> dict[str, Any]:
        """The finished response, which is kept if the request wants that."""
        cut = self._answer.finish_reason != "stop"
        status = "incomplete" if cut else "completed"
        response = self._response(status)
        full = self._answer.finish_reason == "length"
        response["incomplete_details"] = {"reason": "max_output_tokens"} if full else None
        response["output"] = [self._item(part, status) for part in self._answer.parts]
        response["usage"] = _usage(self._answer.usage, self._answer.reasoning_tokens)
        response["completed_at"] = None if cut else int(time.time())
        self._keep(response)
        return response

    def begin(self) -> Iterable[bytes]:
        """That there is a response, before it says anything."""
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))

    def write(self, index: int, output: Output, changes: Sequence[Change]) -> Iterable[bytes]:
        """What happened to the output items."""
        for change in changes:
            place = {"output_index": change.part.index, "item_id": self._item_id(change.part)}
            match change.kind:
                case "open":
                    yield from self._opened(change.part, place)
                case "add":
                    yield self._added(change, place)
                case "close":
                    yield from self._closed(change.part, place)

    def end(self) -> Iterable[bytes]:
        """The whole response."""
        response = self.whole()
        yield self._event(f"response.{response['status']}", response=response)

    def fail(self, error: FwError) -> Iterable[bytes]:
        """The response as failed, and the error by itself, which clients raise."""
        shown = {"code": "server_error", "message": error.message}
        yield self._event("response.failed", response={**self._response("failed"), "error": shown})
        fields = error.openai_body()["error"]
        yield self._event("error", code=error.code, message=error.message, param=error.param, error=fields)

    def _opened(self, part: Part, place: dict[str, Any]) -> Iterable[bytes]:
        item = self._item(part, "in_progress")
        if "content" in item:
            item["content"] = []
        yield self._event("response.output_item.added", output_index=part.index, item=item)
        if part.kind != "call":
            yield self._event("response.content_part.added", **place, content_index=0, part=_content(part.kind, ""))

    def _added(self, change: Change, place: dict[str, Any]) -> bytes:
        match change.part.kind:
            case "text":
                kind, rest = "response.output_text.delta", {"content_index": 0, "logprobs": []}
            case "reasoning":
                kind, rest = "response.reasoning_text.delta", {"content_index": 0}
            case "call":
                kind, rest = "response.function_call_arguments.delta", {}
        return self._event(kind, **place, **rest, delta=change.text)

    def _closed(self, part: Part, place: dict[str, Any]) -> Iterable[bytes]:
        if part.kind == "call":
            done = "response.function_call_arguments.done"
            yield self._event(done, **place, name=part.name, arguments=part.text)
        else:
            where = {**place, "content_index": 0}
            if part.kind == "text":
                yield self._event("response.output_text.done", **where, text=part.text, logprobs=[])
            else:
                yield self._event("response.reasoning_text.done", **where, text=part.text)
            yield self._event("response.content_part.done", **where, part=_content(part.kind, part.text))
        item = self._item(part, "completed")
        yield self._event("response.output_item.done", output_index=part.index, item=item)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse({"type": kind, "sequence_number": number, **fields}, kind)

    def _item_id(self, part: Part) -> str:
        return f"{ID_PREFIXES[part.kind]}_{self.id.removeprefix('resp_')}_{part.index}"

    def _item(self, part: Part, status: str) -> dict[str, Any]:
        common = {"id": self._item_id(part), "status": status}
        match part.kind:
            case "text":
                return {**common, "type": "message", "role": "assistant", "content": [_content("text", part.text)]}
            case "reasoning":
                content = [_content("reasoning", part.text)]
                return {**common, "type": "reasoning", "summary": [], "content": content}
            case "call":
                call = {"call_id": part.id, "name": part.name, "arguments": part.text}
                return {**common, "type": "function_call", **call}

    @property
    def _format(self) -> dict[str, Any]:
        stated = self._body.text.format if self._body.text is not None else None
        return {"type": "text"} if stated is None else stated.model_dump(by_alias=True, exclude_none=True)

    def _response(self, status: str) -> dict[str, Any]:
        body = self._body
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self._created),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "service_tier": "default",
            "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": self._format},
            "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
            "tools": [tool.model_dump() for tool in body.functions()],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
        }


def response(served: Served, value: Any, caller: Caller) -> tuple[ResponsesBody, Ask, ResponseWriter]:
    """A responses request, checked and rendered after the response that it continues."""
    body = parse_inference(ResponsesBody, value, NEUTRAL)
    served.check_model(body.model)
    before: Sequence[Message] = ()
    if body.previous_response_id is not None:
        before = served.responses.get(body.previous_response_id, caller.tenant, "previous_response_id").messages
    messages = body.conversation(before)
    talk = body.talk(served.renderer, messages)
    prompt, answer = talk.prompt(), talk.answer()
    limit = served.context if body.max_output_tokens is None else body.max_output_tokens
    sampling = body.sampling(max_tokens=limit)

    def keep(finished: dict[str, Any]) -> None:
        if body.store is not False:
            served.responses.put(finished, [*messages, _said(answer)], caller.tenant)

    writer = ResponseWriter(body, caller.shown or body.model, answer, keep)
    options = {"grammar": talk.grammar(), "keep_special": served.renderer.keep_special}
    return body, served.ask(writer.id, body, caller, [prompt], sampling, **options), writer


def _said(answer: Answer) -> Message:
    """The answer as a message of the conversation that goes on."""
    said: Message = {"role": "assistant", "content": answer.text}
    if answer.reasoning:
        said["reasoning_content"] = answer.reasoning
    calls = [tool_call(part.id, part.name, part.text) for part in answer.calls]
    return {**said, "tool_calls": calls} if calls else said


def _content(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage, reasoning_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,
            "cache_miss": usage.cache_miss,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }

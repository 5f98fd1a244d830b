"""OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from engine.inference.request import MAX_LOGPROBS, Output
from engine.serving.answers import Answer, Change
from engine.serving.generation import Ask
from engine.serving.openai_shared import NEUTRAL, CompletionFields, Frame, TokenWriter, failure
from engine.serving.protocol import InferenceBody, parse_inference, wrong
from engine.serving.served import Caller, Served
from engine.serving.talk import Talk, ToolUse, function_choice, tool_call
from engine.text import Renderer
from fw_sdk.types import FwError

NAMES = ("chatcmpl", "chat.completion", "chat.completion.chunk")
WORDS = {"auto": "auto", "none": "none", "required": "required"}


class TextPart(InferenceBody):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: StrictStr


class ChatMessage(InferenceBody):
    """One message; what its role does not need may be missing."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: StrictStr | list[TextPart] | None = None
    name: StrictStr | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: StrictStr | None = None
    reasoning_content: StrictStr | None = None
    reasoning: StrictStr | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Any = None

    def plain(self) -> dict[str, Any]:
        """The message as the renderer expects it: content is one string."""
        content = self.content
        text = "".join(part.text for part in content) if isinstance(content, list) else content or ""
        rest = {
            "name": self.name,
            "tool_calls": self.tool_calls,
            "tool_call_id": self.tool_call_id,
            "reasoning_content": self.reasoning_content or self.reasoning,
        }
        return {"role": self.role, "content": text, **{key: value for key, value in rest.items() if value is not None}}


class TemplateOptions(InferenceBody):
    """vLLM's ``chat_template_kwargs``, as far as they are understood."""

    enable_thinking: StrictBool = True


class ChatBody(CompletionFields):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: StrictBool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: TemplateOptions | None = None
    max_completion_tokens: StrictInt | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=MAX_LOGPROBS)] | None = None

    @property
    def limit(self) -> int | None:
        """The longest answer, in tokens, if the body says."""
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise wrong(
                "max_completion_tokens",
                f"'max_tokens' ({self.max_tokens}) and 'max_completion_tokens' ({self.max_completion_tokens}) differ",
                "send one of them",
            )
        return both.pop() if both else None

    @property
    def thinks(self) -> bool:
        """Whether the model may reason first."""
        switched_off = self.chat_template_kwargs is not None and not self.chat_template_kwargs.enable_thinking
        return self.reasoning_effort != "none" and not switched_off

    def talk(self, renderer: Renderer) -> Talk:
        """The conversation with its tools."""
        use = ToolUse(self.tools or (), function_choice(self.tool_choice, WORDS), self.parallel_tool_calls is not False)
        return Talk(renderer, [message.plain() for message in self.messages], use, self.form, self.thinks)


class ChatWriter:
    """``chat.completion`` and ``chat.completion.chunk``."""

    def __init__(self, frame: Frame, answers: Sequence[Answer], tokens: TokenWriter, body: ChatBody) -> None:
        self.answers = answers
        self._frame = frame
        self._tokens = tokens
        self._logprobs = bool(body.logprobs)
        self._token_ids = body.return_token_ids
        self._prompt_logprobs = body.prompt_logprobs is not None

    def whole(self) -> dict[str, Any]:
        """A choice per answer."""
        choices = [
            {
                "index": index,
                "message": _message(answer),
                "logprobs": self._tokens.chat(answer.logprobs) if self._logprobs else None,
                "finish_reason": _reason(answer),
                **self._ids(answer.token_ids, answer.weight_versions),
            }
            for index, answer in enumerate(self.answers)
        ]
        whole = self._frame.complete(choices, self.answers)
        if self._prompt_logprobs:
            whole["prompt_logprobs"] = self._tokens.prompt(self.answers[0].prompt_logprobs)
        return whole

    def begin(self) -> Iterable[bytes]:
        """The role comes first, alone."""
        for index in range(len(self.answers)):
            delta = {"role": "assistant", "content": ""}
            yield self._frame.event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def write(self, index: int, output: Output, changes: Sequence[Change]) -> Iterable[bytes]:
        """At most one chunk; none while a character or a stop string may be incomplete."""
        delta = self._delta(index, changes)
        if not delta and output.logprobs:
            delta = {"content": ""}
        if not (delta or output.finished or self._token_ids):
            return
        yield self._frame.event(
            [
                {
                    "index": index,
                    "delta": delta,
                    "logprobs": self._tokens.chat(output.logprobs) if self._logprobs else None,
                    "finish_reason": _reason(self.answers[index]) if output.finished else None,
                    **self._ids(output.token_ids, output.weight_versions),
                }
            ]
        )

    def _delta(self, index: int, changes: Sequence[Change]) -> dict[str, Any]:
        """What changed, each part under its own name."""
        delta: dict[str, Any] = {}
        calls: dict[int, dict[str, Any]] = {}
        for change in changes:
            part = change.part
            match part.kind:
                case "text" if change.text:
                    delta["content"] = delta.get("content", "") + change.text
                case "reasoning" if change.text:
                    delta["reasoning"] = delta["reasoning_content"] = delta.get("reasoning", "") + change.text
                case "call":
                    place = self.answers[index].calls.index(part)
                    call = calls.setdefault(place, {"index": place, "function": {"arguments": ""}})
                    call["function"]["arguments"] += change.text
                    if change.kind == "open":
                        call |= {"id": part.id, "type": "function"}
                        call["function"]["name"] = part.name
        shown = [call for call in calls.values() if "id" in call or call["function"]["arguments"]]
        return {**delta, "tool_calls": shown} if shown else delta

    def _ids(self, token_ids: Sequence[int], weight_versions: Sequence[int]) -> dict[str, Any]:
        """The tokens themselves, and which weights drew them, if asked for."""
        return {"token_ids": list(token_ids), "weight_versions": list(weight_versions)} if self._token_ids else {}

    def end(self) -> Iterable[bytes]:
        """The counts, if asked for, and ``[DONE]``."""
        return self._frame.last(self.answers)

    def fail(self, error: FwError) -> Iterable[bytes]:
        """OpenAI's envelope as the last event."""
        return failure(error)


def _message(answer: Answer) -> dict[str, Any]:
    """The assistant's message; its content is null if it only calls."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning"] = message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [tool_call(call.id, call.name, call.text) for call in answer.calls]
    return message


def _reason(answer: Answer) -> str | None:
    """Why it ended: an answer that calls ends for that."""
    return "tool_calls" if answer.calls and answer.finish_reason == "stop" else answer.finish_reason


def chat(served: Served, value: Any, caller: Caller) -> tuple[ChatBody, Ask, ChatWriter]:
    """A chat request, checked and rendered."""
    body = parse_inference(ChatBody, value, NEUTRAL)
    if body.top_logprobs is not None and not body.logprobs:
        raise wrong("top_logprobs", "'top_logprobs' needs 'logprobs': true")
    limit = served.context if body.limit is None else body.limit
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    served.check_model(body.model)
    sampling = body.sampling(max_tokens=limit, stop=body.stops, logprobs=logprobs, prompt_logprobs=body.prompt_logprobs)
    talk = body.talk(served.renderer)
    prompts = [talk.prompt()]
    frame = Frame.of(body, NAMES, caller.shown or body.model, prompts)
    answers = [talk.answer() for _ in range(body.n)]
    writer = ChatWriter(frame, answers, TokenWriter(served.renderer.tokenizer), body)
    options = {"n": body.n, "grammar": talk.grammar(), "keep_special": served.renderer.keep_special}
    return body, served.ask(frame.id, body, caller, prompts, sampling, **options), writer

"""The bodies of inference requests: OpenAI's fields and the few beyond them, everything else refused by name."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr

from engine.inference.request import MAX_LOGPROBS, SamplingParams
from fw_sdk.types import FwError, RequestBody, parse_request

NOT_DONE = "nothing was generated"
MAX_CHOICES = 64

Number = Annotated[float, Field(strict=True)] | StrictInt
TokenIds = list[StrictInt]

B = TypeVar("B", bound="InferenceBody")


class InferenceBody(RequestBody):
    """A request body in snake_case; unknown fields are refused."""

    model_config = ConfigDict(alias_generator=None, extra="forbid")


class StreamOptions(InferenceBody):
    """What a stream carries besides the answer."""

    include_usage: StrictBool = False


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
    refusal: None = None

    def plain(self) -> dict[str, Any]:
        """The message as chat templates expect it: content is one string."""
        content = self.content
        text = "".join(part.text for part in content) if isinstance(content, list) else content or ""
        rest = {"name": self.name, "tool_calls": self.tool_calls, "tool_call_id": self.tool_call_id}
        return {"role": self.role, "content": text, **{key: value for key, value in rest.items() if value is not None}}


class SamplingBody(InferenceBody):
    """What chat completions and completions share."""

    model: StrictStr
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    n: StrictInt = Field(default=1, ge=1, le=MAX_CHOICES)
    max_tokens: StrictInt | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: StrictInt | None = None
    min_p: Number | None = None
    seed: StrictInt | None = None
    stop: StrictStr | list[StrictStr] | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: StrictBool = False
    return_token_ids: StrictBool = False

    def sampling(self, *, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """Sampling parameters; without a seed, a random one.

        Args:
            max_tokens: if the body does not say.
            logprobs: number of alternatives, None for no log-probabilities.

        Raises:
            FwError: ``invalid_argument`` with the field's name.
        """
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        top_k = self.top_k or 0
        return SamplingParams(
            max_tokens=max_tokens if self.max_tokens is None else self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=0 if top_k == -1 else top_k,
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p or 0.0,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=stop,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logprobs=logprobs,
            ignore_eos=self.ignore_eos,
        )

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatBody(SamplingBody):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: StrictInt | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=MAX_LOGPROBS)] | None = None


class CompletionBody(SamplingBody):
    """Body of ``POST /v1/completions``."""

    prompt: StrictStr | list[StrictStr] | TokenIds | list[TokenIds]
    logprobs: Annotated[int, Field(strict=True, ge=0, le=MAX_LOGPROBS)] | None = None


class LoadAdapterBody(InferenceBody):
    """Body of ``POST /v1/load_lora_adapter``."""

    lora_name: StrictStr = Field(min_length=1, max_length=256)
    lora_path: StrictStr = Field(min_length=1)


class UnloadAdapterBody(InferenceBody):
    """Body of ``POST /v1/unload_lora_adapter``."""

    lora_name: StrictStr


def _anything(_: Any) -> bool:
    return True


def _empty(value: Any) -> bool:
    return not value


def _among(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


NEUTRAL: dict[str, Callable[[Any], bool]] = {
    "audio": _empty,
    "best_of": _among(1),
    "echo": _empty,
    "frequency_penalty": _among(0),
    "function_call": _among("none", "auto"),
    "functions": _empty,
    "logit_bias": _empty,
    "metadata": _anything,
    "modalities": _among([], ["text"]),
    "parallel_tool_calls": _anything,
    "prediction": _empty,
    "presence_penalty": _among(0),
    "prompt_cache_key": _anything,
    "reasoning_effort": _among("none"),
    "repetition_penalty": _among(1),
    "response_format": _among({}, {"type": "text"}),
    "safety_identifier": _anything,
    "service_tier": _among("auto", "default"),
    "store": _empty,
    "suffix": _empty,
    "tool_choice": _among("none", "auto"),
    "tools": _empty,
    "user": _anything,
    "verbosity": _among("medium"),
    "web_search_options": _empty,
}
"""OpenAI's fields that change nothing at these values; other values ask for what this version cannot do."""


def parse_inference(kind: type[B], body: Any) -> B:
    """Validate an inference request.

    Raises:
        FwError: ``invalid_argument`` for wrong and unknown fields, ``unimplemented`` for a known one that asks for
            something this version does not do.
    """
    if not isinstance(body, Mapping):
        raise FwError("invalid_argument", "the body must be a JSON object", not_done=NOT_DONE)
    for name in body.keys() & NEUTRAL.keys():
        value = body[name]
        if value is not None and not NEUTRAL[name](value):
            raise FwError(
                "unimplemented",
                f"'{name}' is not supported by this version, got {value!r:.80}",
                not_done=NOT_DONE,
                hint=f"leave '{name}' out",
                param=name,
            )
    return parse_request(kind, {key: body[key] for key in body if key not in NEUTRAL}, not_done=NOT_DONE)

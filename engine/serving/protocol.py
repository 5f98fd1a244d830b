"""What the bodies of all inference requests share: sampling fields, and refusing everything unknown by name."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr

from engine.inference.request import SamplingParams
from fw_sdk.types import FwError, RequestBody, parse_request

NOT_DONE = "nothing was generated"

Number = Annotated[float, Field(strict=True)] | StrictInt
TokenIds = list[StrictInt]

B = TypeVar("B", bound="InferenceBody")


class InferenceBody(RequestBody):
    """A request body in snake_case; unknown fields are refused."""

    model_config = ConfigDict(alias_generator=None, extra="forbid")


class SamplingBody(InferenceBody):
    """What every body that asks for tokens has."""

    model: StrictStr
    stream: StrictBool | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: StrictInt | None = None
    min_p: Number | None = None
    seed: StrictInt | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    repetition_penalty: Number | None = None
    logit_bias: dict[StrictStr, Number] | None = None
    stop_token_ids: TokenIds | None = None
    min_tokens: StrictInt | None = None
    ignore_eos: StrictBool = False
    priority: StrictInt = Field(default=0, ge=-(1 << 31), lt=1 << 31)
    cache_salt: StrictStr | None = None
    adapters: dict[StrictStr, Number] | None = None

    def sampling(
        self,
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
    ) -> SamplingParams:
        """Sampling parameters; without a seed, a random one.

        Args:
            max_tokens: tokens to generate at most.
            stop: strings that end the answer.
            logprobs: number of alternatives, None for no log-probabilities.
            prompt_logprobs: the same for the prompt's tokens.

        Raises:
            FwError: ``invalid_argument`` with the field's name.
        """
        top_k = self.top_k or 0
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=0 if top_k == -1 else top_k,
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p or 0.0,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logprobs=logprobs,
            ignore_eos=self.ignore_eos,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=tuple((_token_id(name), bias) for name, bias in (self.logit_bias or {}).items()),
            prompt_logprobs=prompt_logprobs,
            min_tokens=self.min_tokens or 0,
        )


def _token_id(name: str) -> int:
    if not (name.isascii() and name.isdigit()):
        raise wrong("logit_bias", f"'logit_bias' maps token ids to numbers, got {name!r:.40}")
    return int(name)


def anything(_: Any) -> bool:
    """Any value changes nothing."""
    return True


def empty(value: Any) -> bool:
    """Only values that are empty or false change nothing."""
    return not value


def among(*values: Any) -> Callable[[Any], bool]:
    """Only these values change nothing."""
    return lambda value: value in values


Neutral = Mapping[str, Callable[[Any], bool]]
"""A protocol's fields that change nothing at some values, with the test for those values."""


def parse_inference(kind: type[B], body: Any, neutral: Neutral) -> B:
    """Validate an inference request.

    Raises:
        FwError: ``invalid_argument`` for wrong and unknown fields, ``unimplemented`` for a known one that asks for
            something this version does not do.
    """
    if not isinstance(body, Mapping):
        raise FwError("invalid_argument", "the body must be a JSON object", not_done=NOT_DONE)
    for name in body.keys() & neutral.keys():
        value = body[name]
        if value is not None and not neutral[name](value):
            raise unsupported(name, value)
    return parse_request(kind, {key: body[key] for key in body if key not in neutral}, not_done=NOT_DONE)


def unsupported(name: str, value: Any) -> FwError:
    """The refusal of a known field's value."""
    return FwError(
        "unimplemented",
        f"'{name}' is not supported by this version, got {value!r:.80}",
        not_done=NOT_DONE,
        hint=f"leave '{name}' out",
        param=name,
    )


def wrong(param: str, message: str, hint: str = "") -> FwError:
    """A mistake in a field that types alone do not show."""
    return FwError("invalid_argument", message, not_done=NOT_DONE, hint=hint, param=param)

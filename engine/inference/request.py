"""What goes into the engine and what comes out: requests, sampling parameters, outputs. All of it immutable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.inference.masks import Grammar
from engine.inference.prefix import MissReason
from fw_sdk.types import FwError

FinishReason = Literal["stop", "length", "abort"]
"""``abort``: ended by a change of weights; what there is stands, and a request with prompt and answer goes on."""

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_BIASES = 1024
MAX_BIAS = 100.0

_SEED_LIMIT = 1 << 63


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return (_whole(value) or isinstance(value, float)) and math.isfinite(value)


def _biases(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) > MAX_BIASES:
        return False
    if not all(isinstance(pair, tuple) and len(pair) == 2 and _whole(pair[0]) and pair[0] >= 0 for pair in value):
        return False
    return all(_number(bias) and abs(bias) <= MAX_BIAS for _, bias in value) and len(dict(value)) == len(value)


_COUNT = (lambda v: v is None or (_whole(v) and 0 <= v <= MAX_LOGPROBS), f"0 to {MAX_LOGPROBS}, or None")
_PENALTY = (lambda v: _number(v) and -2 <= v <= 2, "a number from -2 to 2")

_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (lambda v: _whole(v) and v >= 1, "a whole number of at least 1"),
    "temperature": (lambda v: _number(v) and 0 <= v <= 100, "a number from 0 to 100"),
    "top_k": (lambda v: _whole(v) and v >= 0, "a whole number of at least 0 (0 keeps all tokens)"),
    "top_p": (lambda v: _number(v) and 0 < v <= 1, "a number above 0, at most 1"),
    "min_p": (lambda v: _number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "seed": (lambda v: _whole(v) and -_SEED_LIMIT <= v < _SEED_LIMIT, "a whole number of 64 bits"),
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "repetition_penalty": (lambda v: _number(v) and 0.01 <= v <= 100, "a number from 0.01 to 100 (1 is none)"),
    "logit_bias": (
        _biases,
        f"at most {MAX_BIASES} pairs of different token ids with numbers from -{MAX_BIAS:g} to {MAX_BIAS:g}",
    ),
    "logprobs": _COUNT,
    "prompt_logprobs": _COUNT,
    "stop": (
        lambda v: isinstance(v, tuple) and len(v) <= MAX_STOPS and all(isinstance(s, str) and s for s in v),
        f"at most {MAX_STOPS} strings that are not empty",
    ),
    "stop_token_ids": (lambda v: isinstance(v, tuple) and all(map(_whole, v)), "token ids"),
    "min_tokens": (lambda v: _whole(v) and v >= 0, "a whole number of at least 0"),
}


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one request are drawn and when it ends.

    The draw at a position depends on the seed, that position and the distribution there, on nothing else: two requests
    with one seed and one prompt give one answer, whatever else is in the batch. Whoever wants several different
    samples of one prompt gives several seeds.

    Attributes:
        max_tokens: tokens to generate at most.
        temperature: 0 takes the most likely token, 1 the model's own distribution.
        top_k: keep only the k most likely tokens (0: all).
        top_p: then keep the smallest set of most likely tokens with at least this probability.
        min_p: then keep the tokens with at least this share of the most likely token's probability.
        seed: names the stream of random numbers.
        stop: strings that end the answer and are not part of it.
        stop_token_ids: tokens that end the answer, besides the model's own end of turn.
        logprobs: None for none, else with this many alternatives per token. They are those of the model's own
            distribution, before temperature, truncation, penalties, biases and grammar.
        ignore_eos: do not end at the model's own end-of-turn tokens.
        frequency_penalty: taken from a token's logit for every time it stands in the answer so far.
        presence_penalty: taken from a token's logit if it stands in the answer so far.
        repetition_penalty: logits of tokens that stand in the prompt or in the answer so far are divided by it where
            positive and multiplied with it where negative; 1 is none. It comes before the other two.
        logit_bias: pairs of a token and what is added to its logit before any penalty.
        prompt_logprobs: as ``logprobs``, of the prompt's tokens, given with the first output. The part of the prompt
            that needs them is computed even where its pages are in the prefix cache.
        min_tokens: until the answer has as many, no token that would end it is drawn.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    prompt_logprobs: int | None = None
    min_tokens: int = 0

    def __post_init__(self) -> None:
        for name, (holds, wanted) in _RULES.items():
            value = getattr(self, name)
            if not holds(value):
                raise FwError(
                    "invalid_argument",
                    f"{name} must be {wanted}, got {value!r:.80}",
                    not_done="nothing was generated",
                    param=name,
                )
        if self.min_tokens > self.max_tokens:
            raise FwError(
                "invalid_argument",
                f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})",
                not_done="nothing was generated",
                param="min_tokens",
            )


@dataclass(frozen=True)
class Request:
    """One prompt to continue.

    Attributes:
        id: unique among the requests in the engine.
        prompt: token ids, at least one.
        sampling: how to draw and when to stop.
        adapter: name of a loaded adapter; None is the base model.
        adapters: instead of one adapter, several by name, each with the weight that its update gets.
        priority: smaller runs earlier.
        tenant: whose request it is. Prefixes are shared inside a tenant only, and tenants get equal turns.
        grammar: what the answer must look like; None is anything.
        keep_special: leave special tokens in the text, for models whose markers they are (``Renderer.keep_special``).
    """

    id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    adapter: str | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    priority: int = 0
    tenant: str = ""
    grammar: Grammar | None = None
    keep_special: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its natural-log probability and the most likely tokens at its position, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts.

    Attributes:
        prompt_tokens: tokens of the prompt.
        completion_tokens: tokens drawn.
        cached_tokens: of the prompt, found in the prefix cache and not computed for this request.
        cache_miss: why the rest of the prompt was not found; None if all of it was that could be.
        queue_s: how long the request waited until it first ran, in seconds; not part of what is compared.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cache_miss: MissReason | None = None
    queue_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Output:
    """What one step brought for one request.

    Attributes:
        request_id: whose it is.
        token_ids: new tokens, the one that ended the answer included.
        text: new text; it lags behind the tokens while a character or a stop string may be incomplete.
        logprobs: one per new token, if asked for.
        finish_reason: None until the request is over; None as well if ``error`` is set.
        usage: counts up to here.
        error: why the request failed; nothing comes after it.
        weight_versions: one per new token: the version of the weights that it was drawn with.
        prompt_logprobs: with the first output, if asked for: one per token of the prompt, None for the first token,
            which nothing predicts.
        stop: the stop string that ended the answer, if one did.
    """

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason | None
    usage: Usage
    error: FwError | None = None
    weight_versions: tuple[int, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    stop: str | None = None

    @property
    def finished(self) -> bool:
        """Whether this is the request's last output."""
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True)
class Completion:
    """All outputs of one request together."""

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    usage: Usage
    weight_versions: tuple[int, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()

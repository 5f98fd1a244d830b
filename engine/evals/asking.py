"""Asking a served model over HTTP: patient with a server that restarts, strict with one that answers wrongly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from fw_sdk.types import CODES, FwError, InferenceParameters

PATIENCE_S = 600.0
ANSWER_TIMEOUT_S = 600.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 10.0
RETRY_STATUS = frozenset({429, 502, 503, 504})
UNKNOWN = "unknown"
WARM_UP = [{"role": "user", "content": "Hi"}]


@dataclass(frozen=True)
class Identity:
    """What answered, as the server states it in the headers of every reply."""

    model_digest: str = UNKNOWN
    base_digest: str = UNKNOWN
    dtype: str = UNKNOWN
    numerics: str = UNKNOWN
    template_digest: str = UNKNOWN
    serving_digest: str = UNKNOWN

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Identity:
        """Read ``fw-digest`` and the ``x-fw-…`` headers; what a foreign server does not say is ``unknown``."""
        return cls(
            headers.get("x-fw-model-digest", UNKNOWN),
            headers.get("x-fw-base-digest", UNKNOWN),
            headers.get("x-fw-dtype", UNKNOWN),
            headers.get("x-fw-numerics", UNKNOWN),
            headers.get("x-fw-template-digest", UNKNOWN),
            headers.get("fw-digest", UNKNOWN),
        )


@dataclass(frozen=True)
class Answer:
    """One completion: its text and calls, why it ended, what it cost in tokens, and who gave it."""

    text: str
    calls: list[dict[str, Any]]
    finish_reason: str | None
    prompt_tokens: int
    generated_tokens: int
    identity: Identity


class ServedModel:
    """A model behind an OpenAI-shaped server.

    Connection errors and the statuses 429, 502, 503 and 504 (and errors that call themselves retryable) are tried
    again for ``patience_s``, since the daemon may be restarting; any other error is raised as it was given.

    Attributes:
        down_s: how long the server could not answer in all, from each error that was tried again to the next answer.
    """

    def __init__(
        self, base_url: str, model: str, api_key: str | None, *, connections: int, patience_s: float = PATIENCE_S
    ) -> None:
        self._model = model
        self._patience_s = patience_s
        self.down_s = 0.0
        self._down_since: float | None = None
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=10.0),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
        )

    async def __aenter__(self) -> ServedModel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def warm_up(self) -> None:
        """Ask for one token, so that what starts with the first request (worker, adapter) has started.

        A refusal is passed over: the rows' own requests say it better. Raises ``FwError`` once patience is at its end.
        """
        try:
            await self.ask(WARM_UP, InferenceParameters(max_tokens=1), seed=0)
        except FwError as error:
            if error.retryable:
                raise

    async def ask(
        self, messages: list[dict[str, Any]], inference: InferenceParameters, seed: int, tools: Any = None
    ) -> Answer:
        """One chat completion, with ``tools`` offered; raises ``FwError`` with the server's code and message."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "max_tokens": inference.max_tokens,
            "temperature": inference.temperature,
            "top_p": inference.top_p,
            "seed": seed,
        }
        if tools:
            body["tools"] = tools
        give_up, delay_s = time.monotonic() + self._patience_s, FIRST_DELAY_S
        while True:
            try:
                response = await self._client.post("/v1/chat/completions", json=body)
            except httpx.TransportError as error:
                failure = FwError("unavailable", f"The model's server does not answer: {_reason(error)}.")
            else:
                if response.is_success:
                    self._is_up()
                    return _read_answer(response)
                failure = _read_error(response)
            if failure.retryable and self._down_since is None:
                self._down_since = time.monotonic()
            if not failure.retryable or time.monotonic() + delay_s > give_up:
                raise _final(failure, self._patience_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    def _is_up(self) -> None:
        if self._down_since is not None:
            self.down_s += time.monotonic() - self._down_since
            self._down_since = None


def _reason(error: httpx.TransportError) -> str:
    return f"{type(error).__name__} {error}".strip()


def _read_answer(response: httpx.Response) -> Answer:
    try:
        body = response.json()
        choice, usage = body["choices"][0], body.get("usage") or {}
        return Answer(
            text=(choice["message"].get("content") or "").encode("utf-8", "replace").decode(),
            calls=[_call(call) for call in choice["message"].get("tool_calls") or ()],
            finish_reason=choice.get("finish_reason"),
            prompt_tokens=int(usage.get("prompt_tokens", 0)),
            generated_tokens=int(usage.get("completion_tokens", 0)),
            identity=Identity.of(response.headers),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        raise FwError(
            "job_failed",
            f"The server's reply is not a chat completion: {response.text[:200]!r}.",
            not_done="The evaluation has no result.",
            hint="check that the base URL is an OpenAI-compatible server",
        ) from None


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as rows write it, without the id that the server made up."""
    function = call["function"]
    return {"type": "function", "function": {"name": function["name"], "arguments": function["arguments"]}}


def _read_error(response: httpx.Response) -> FwError:
    """The server's error in its own words; a foreign server's code is replaced by the one of its status."""
    try:
        fields = dict(response.json()["error"])
    except (ValueError, LookupError, TypeError):
        fields = {"message": response.text[:200].strip() or f"HTTP status {response.status_code}"}
    if fields.get("code") not in CODES:
        fields["code"] = _CODES_BY_STATUS.get(response.status_code, "job_failed")
    error = FwError.from_dict(fields)
    error.retryable = response.status_code in RETRY_STATUS or bool(fields.get("retryable"))
    return error


_CODES_BY_STATUS = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    409: "failed_precondition",
    413: "payload_too_large",
    422: "invalid_argument",
    429: "resource_exhausted",
    502: "unavailable",
    503: "unavailable",
    504: "deadline_exceeded",
}


def _final(error: FwError, patience_s: float) -> FwError:
    """The error that ends the evaluation: what was not done, and that rows already scored are kept."""
    waited = f" Tried again for {patience_s:.0f} s." if error.retryable else ""
    error.message += waited
    error.not_done = error.not_done or "The evaluation has no result; rows already scored are kept."
    error.hint = error.hint or "start or repair the model's server, then resume the job"
    return error

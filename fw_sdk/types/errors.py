"""The one error of fw: the same fields on every surface, and the table that maps its code to each protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ErrorCode:
    """How one code appears on each surface. ``grpc`` is the integer of ``google.rpc.Code``."""

    http: int
    grpc: int
    exit_code: int
    retryable: bool
    meaning: str


CODES: dict[str, ErrorCode] = {
    "invalid_argument": ErrorCode(400, 3, 2, False, "an argument is wrong"),
    "dataset_invalid": ErrorCode(400, 3, 1, False, "rows of a dataset cannot be used"),
    "evaluator_invalid": ErrorCode(400, 3, 1, False, "an evaluator cannot be loaded"),
    "evaluator_failed": ErrorCode(422, 9, 8, False, "an evaluator raised, timed out or returned no finite score"),
    "model_unsupported": ErrorCode(400, 3, 1, False, "a model's format or architecture is not supported"),
    "context_length_exceeded": ErrorCode(400, 11, 2, False, "a request is longer than the model's context"),
    "unauthenticated": ErrorCode(401, 16, 4, False, "the token is missing or wrong"),
    "permission_denied": ErrorCode(403, 7, 4, False, "the token, the Host or the Origin does not allow this"),
    "not_found": ErrorCode(404, 5, 3, False, "no such thing"),
    "method_not_allowed": ErrorCode(405, 12, 2, False, "the path does not take this method"),
    "already_exists": ErrorCode(409, 6, 5, False, "the name is taken by something different"),
    "failed_precondition": ErrorCode(409, 9, 5, False, "the state of something forbids this now"),
    "gate_not_met": ErrorCode(409, 9, 5, False, "the comparison does not allow this deployment"),
    "payload_too_large": ErrorCode(413, 11, 2, False, "a body or file is over the limit"),
    "unsupported_media_type": ErrorCode(415, 3, 2, False, "a body's type or encoding is not supported"),
    "resource_exhausted": ErrorCode(429, 8, 6, True, "a queue, a budget or a disk is full"),
    "cancelled": ErrorCode(499, 1, 8, False, "it was cancelled"),
    "internal": ErrorCode(500, 13, 1, False, "a bug in fw; the log has the traceback"),
    "unimplemented": ErrorCode(501, 12, 1, False, "this version cannot do that"),
    "unavailable": ErrorCode(503, 14, 9, True, "a process does not answer"),
    "port_in_use": ErrorCode(503, 14, 9, False, "another process listens on the port"),
    "deadline_exceeded": ErrorCode(504, 4, 7, True, "the wait ended before the work did"),
    "worker_lost": ErrorCode(500, 14, 8, True, "a job's process died without saying why"),
    "out_of_memory": ErrorCode(507, 8, 8, False, "a process used more memory than there is"),
    "training_diverged": ErrorCode(422, 9, 8, False, "the loss is no longer finite"),
    "job_failed": ErrorCode(422, 9, 8, False, "a job ended without its result"),
}


ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's name for an error by its HTTP status."""


def speaks_anthropic(path: str) -> bool:
    """Whether clients of this path expect Anthropic's shapes."""
    return path.removeprefix("/inference").startswith("/v1/messages")


class FwError(Exception):
    """What happened, what was not done, what to do next.

    Args:
        code: a key of ``CODES``.
        message: what happened, one sentence, with the offending value.
        not_done: what was not done because of it ("nothing was trained").
        hint: the next command or call that helps.
        param: the argument or field that is wrong, if one is.
        request_id: set at the surface that reports the error.
        details: structured facts (line numbers, log tail); JSON values only.
        retryable: overrides the table's value for the code.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        not_done: str = "",
        hint: str = "",
        param: str | None = None,
        request_id: str | None = None,
        details: dict[str, Any] | None = None,
        retryable: bool | None = None,
    ) -> None:
        self.code = code if code in CODES else "internal"
        self.message = _encodable(message)
        self.not_done = _encodable(not_done)
        self.hint = _encodable(hint)
        self.param = param and _encodable(param)
        super().__init__(self.message)
        self.request_id = request_id
        self.details = details or {}
        self.retryable = CODES[self.code].retryable if retryable is None else retryable

    @property
    def http_status(self) -> int:
        """The HTTP status of the code."""
        return CODES[self.code].http

    @property
    def exit_code(self) -> int:
        """The CLI's exit status of the code."""
        return CODES[self.code].exit_code

    def to_dict(self) -> dict[str, Any]:
        """The fields that every surface shows (camelCase, absent when empty)."""
        fields: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "notDone": self.not_done,
            "hint": self.hint,
            "retryable": self.retryable,
            "param": self.param,
            "requestId": self.request_id,
            "details": self.details,
        }
        return {key: value for key, value in fields.items() if value not in ("", None, {})}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> FwError:
        """Inverse of ``to_dict``; unknown codes become ``internal`` and keep their message."""
        return cls(
            str(fields.get("code", "internal")),
            str(fields.get("message", "")),
            not_done=str(fields.get("notDone", "")),
            hint=str(fields.get("hint", "")),
            param=fields.get("param"),
            request_id=fields.get("requestId"),
            details=fields.get("details") or {},
            retryable=fields.get("retryable"),
        )

    def control_plane_body(self) -> dict[str, Any]:
        """The control plane's envelope: ``{code: <grpc int>, message, details: [fields]}``."""
        return {"code": CODES[self.code].grpc, "message": self.message, "details": [self.to_dict()]}

    def openai_body(self) -> dict[str, Any]:
        """The OpenAI envelope, with our fields beside its own."""
        kind = "invalid_request_error" if self.http_status < 500 else "server_error"
        return {"error": {**self.to_dict(), "type": kind, "param": self.param, "code": self.code}}

    def anthropic_body(self) -> dict[str, Any]:
        """The Anthropic envelope, with our fields beside its own, but for ``details``, which differ there."""
        kind = ANTHROPIC_TYPES.get(self.http_status, "invalid_request_error" if self.http_status < 500 else "api_error")
        fields = {key: value for key, value in self.to_dict().items() if key != "details"}
        return {"type": "error", "error": {**fields, "type": kind}, "request_id": self.request_id}

    def inference_body(self, path: str) -> dict[str, Any]:
        """The envelope that clients of an inference path expect: Anthropic's below ``/v1/messages``, else OpenAI's."""
        return self.anthropic_body() if speaks_anthropic(path) else self.openai_body()

    def text(self) -> str:
        """One paragraph for a terminal or a tool result."""
        parts = [
            self.message,
            self.not_done[:1].upper() + self.not_done[1:],
            self.hint and f"Next: {self.hint}",
        ]
        return " ".join(part if part.endswith((".", "?", "!", ")")) else f"{part}." for part in parts if part)


LONGEST_NAME = 100
"""Letters of the longest name that is compared letter by letter: ids, fields, files and paths of ours are shorter."""


def _encodable(text: str) -> str:
    """The text with lone surrogates escaped: what a user wrote is quoted, and must fit into UTF-8 on every surface."""
    return text.encode("utf-8", "backslashreplace").decode()


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` was probably meant to be, or None if none is near.

    Near is a word that differs in at most a third of its letters (case, and an extension that both have, do not
    count), and behind these one with the same stem (``training`` for ``train``) or whose parts are all there (``rank``
    for ``lora_rank``).
    """
    ranked = [(rank, name) for name in known if (rank := _rank(word, name)) is not None]
    return min(ranked)[1] if ranked else None


def _rank(word: str, name: str) -> tuple[int, int] | None:
    """(kind of nearness, distance), smaller is nearer; None if the words are not near."""
    one, two = word.casefold(), name.casefold()
    stem, dot, extension = one.rpartition(".")
    if dot and two.endswith(f".{extension}"):
        one, two = stem, two.removesuffix(f".{extension}")
    distance = _edits(one, two, min(len(one), len(two)) // 3)
    if distance is not None:
        return 0, distance
    short, long = sorted((one, two), key=len)
    stem_of = len(short) >= 3 and long.startswith(short) and 2 * len(short) >= len(long)
    fewer, more = sorted((_parts(word), _parts(name)), key=len)
    part_of = fewer <= more and any(len(part) >= 3 for part in fewer)
    return (1, len(long) - len(short)) if stem_of or part_of else None


def _parts(word: str) -> set[str]:
    return {part.casefold() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", word)}


def _edits(one: str, two: str, most: int) -> int | None:
    """Insertions, deletions, replacements and swaps of neighbours between two words; None if more than ``most``."""
    if abs(len(one) - len(two)) > most or len(one) > LONGEST_NAME:
        return None
    before: list[int] = []
    row = list(range(len(two) + 1))
    for i, letter in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(two, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == two[j - 2] and one[i - 2] == other:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
        if min(row) > most and min(before) > most:
            return None
    return row[-1] if row[-1] <= most else None


def not_found(noun: str, name: str, known: Iterable[str], hint: str) -> FwError:
    """A ``not_found`` error that names the nearest known name, or else some that exist."""
    names = sorted(known)
    near = nearest(name, names)
    if near:
        found = f"Did you mean '{near}'?"
    else:
        found = f"Known: {', '.join(names[:8])}." if names else f"There is no {noun} yet."
    details = {"didYouMean": near} if near else None
    return FwError("not_found", f"No {noun} '{name}'. {found}", hint=hint, param=noun, details=details)

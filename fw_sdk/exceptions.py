"""Typed exceptions: one class for each error code, so that ``except fw.NotFoundError`` says what it means."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from fw_sdk.types.errors import CODES, FwError

P = ParamSpec("P")
R = TypeVar("R")


class InvalidArgumentError(FwError):
    """An argument is wrong."""


class DatasetInvalidError(FwError):
    """Rows of a dataset cannot be used; ``details["report"]`` lists them by line."""


class EvaluatorInvalidError(FwError):
    """An evaluator cannot be loaded."""


class EvaluatorFailedError(FwError):
    """An evaluator raised, timed out or returned no finite score."""


class ModelUnsupportedError(FwError):
    """A model's format or architecture is not supported."""


class ContextLengthExceededError(FwError):
    """A request is longer than the model's context."""


class AuthenticationError(FwError):
    """The token is missing or wrong."""


class PermissionDeniedError(FwError):
    """The token, the Host or the Origin does not allow this."""


class NotFoundError(FwError):
    """No such thing; the message names the nearest one that exists."""


class MethodNotAllowedError(FwError):
    """The path does not take this method."""


class AlreadyExistsError(FwError):
    """The name is taken by something different."""


class FailedPreconditionError(FwError):
    """The state of something forbids this now."""


class GateNotMetError(FwError):
    """The comparison does not allow this deployment."""


class PayloadTooLargeError(FwError):
    """A body or file is over the limit."""


class UnsupportedMediaTypeError(FwError):
    """A body's type or encoding is not supported."""


class ResourceExhaustedError(FwError):
    """A queue, a budget or a disk is full."""


class CancelledError(FwError):
    """It was cancelled."""


class InternalError(FwError):
    """A bug in fw; the daemon's log has the traceback."""


class UnimplementedError(FwError):
    """This version cannot do that."""


class UnavailableError(FwError):
    """A process does not answer."""


class PortInUseError(FwError):
    """Another process listens on the port."""


class DeadlineExceededError(FwError):
    """The wait ended before the work did; the work goes on."""


class WorkerLostError(FwError):
    """A job's process died without saying why."""


class OutOfMemoryError(FwError):
    """A process used more memory than there is."""


class TrainingDivergedError(FwError):
    """The loss is no longer finite."""


class JobFailedError(FwError):
    """A job ended without its result; ``details["failure"]`` has its typed reason and the end of its log."""


BY_CODE: dict[str, type[FwError]] = {
    "invalid_argument": InvalidArgumentError,
    "dataset_invalid": DatasetInvalidError,
    "evaluator_invalid": EvaluatorInvalidError,
    "evaluator_failed": EvaluatorFailedError,
    "model_unsupported": ModelUnsupportedError,
    "context_length_exceeded": ContextLengthExceededError,
    "unauthenticated": AuthenticationError,
    "permission_denied": PermissionDeniedError,
    "not_found": NotFoundError,
    "method_not_allowed": MethodNotAllowedError,
    "already_exists": AlreadyExistsError,
    "failed_precondition": FailedPreconditionError,
    "gate_not_met": GateNotMetError,
    "payload_too_large": PayloadTooLargeError,
    "unsupported_media_type": UnsupportedMediaTypeError,
    "resource_exhausted": ResourceExhaustedError,
    "cancelled": CancelledError,
    "internal": InternalError,
    "unimplemented": UnimplementedError,
    "unavailable": UnavailableError,
    "port_in_use": PortInUseError,
    "deadline_exceeded": DeadlineExceededError,
    "worker_lost": WorkerLostError,
    "out_of_memory": OutOfMemoryError,
    "training_diverged": TrainingDivergedError,
    "job_failed": JobFailedError,
}

__all__ = sorted(kind.__name__ for kind in BY_CODE.values())


def from_fields(fields: dict[str, Any]) -> FwError:
    """The typed exception of an error's wire fields."""
    return BY_CODE.get(str(fields.get("code")), InternalError).from_dict(fields)


def typed(error: FwError) -> FwError:
    """The same error as the class of its code."""
    return error if type(error) is BY_CODE[error.code] else from_fields(error.to_dict())


def raises_typed(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, whose every error is of the class of its code, also those of code that clients and CLI share."""

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return function(*arguments, **named)
        except FwError as error:
            raise typed(error) from error.__cause__

    return call


def from_response(status: int, body: Any, request_id: str | None) -> FwError:
    """The typed exception in a reply with an error status.

    Args:
        status: the HTTP status.
        body: the decoded JSON (control plane's or OpenAI's envelope), or the text of a reply that is no JSON.
        request_id: the ``x-request-id`` header.
    """
    fields = _fields(body)
    if fields is None:
        code = next((code for code, entry in CODES.items() if entry.http == status), "internal")
        fields = {"code": code, "message": f"The server replied {status}: {str(body).strip()[:200] or 'no body'}"}
    error = from_fields(fields)
    error.request_id = error.request_id or request_id
    return error


def _fields(body: Any) -> dict[str, Any] | None:
    if not isinstance(body, dict):
        return None
    if isinstance(body.get("error"), dict):
        inner: dict[str, Any] = body["error"]
        return inner if inner.get("code") in CODES else None
    details = body.get("details")
    first = details[0] if isinstance(details, list) and details else None
    return first if isinstance(first, dict) and first.get("code") in CODES else None

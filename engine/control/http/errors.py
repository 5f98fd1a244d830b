"""The outermost layer of the app: request ids, and every failure in the shape of its protocol."""

from __future__ import annotations

import errno
import json
import logging
import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fw_sdk.types import FwError, nearest

log = logging.getLogger("fw.http")

CONTROL_PLANE = ("/v1/accounts", "/v1/health", "/openapi.json")
RETRY_AFTER_S = 1
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def error_response(path: str, error: FwError) -> Response:
    """``error`` in the envelope that clients of ``path`` expect, and whether they should send the request again."""
    control = path.startswith(CONTROL_PLANE)
    body = error.control_plane_body() if control else error.inference_body(path)
    headers = {"x-should-retry": "true" if error.retryable else "false"}
    if error.request_id:
        headers["x-request-id"] = error.request_id
    if error.retryable and error.http_status in (429, 503):
        headers["retry-after"] = str(error.details.get("retryAfterS", RETRY_AFTER_S))
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.http_status == 405:
        headers["allow"] = ", ".join(error.details.get("allow", ()))
    # What a client sent may stand in the message, also what is no text: an error must not fail on that.
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return Response(content, error.http_status, headers, media_type="application/json")


class ErrorMiddleware:
    """Gives each request an id, sends it back, and turns whatever is raised inside into one of our errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            known = _as_fw_error(error, scope, request_id)
            if started:
                log.warning("%s broke off after its headers were sent: %s", request_id, known.message)
                raise
            await error_response(scope["path"], known)(scope, receive, send_with_id)


def _as_fw_error(error: Exception, scope: Scope, request_id: str) -> FwError:
    known = error if isinstance(error, FwError) else _of_the_machine(error)
    if known is not None:
        known.request_id = request_id
        return known
    log.error("%s %s %s failed", request_id, scope["method"], scope["path"], exc_info=error)
    return FwError(
        "internal",
        f"fw failed to answer this request ({type(error).__name__}).",
        hint=f"the daemon's log has the traceback under {request_id}; please report it",
        request_id=request_id,
    )


def _of_the_machine(error: Exception) -> FwError | None:
    """An error of the operating system that says what the machine lacks; None for every other one."""
    if not isinstance(error, OSError) or error.errno not in FULL | READ_ONLY:
        return None
    where = f" ({error.filename})" if error.filename else ""
    words = f"The machine refused: {error.strerror}{where}."
    if error.errno in READ_ONLY:
        hint = "make FW_HOME and what is in it writable for the user that runs the daemon"
        return FwError("failed_precondition", words, not_done="the request was not carried out", hint=hint)
    hint = "free disk space, memory or descriptors and try again"
    return FwError("resource_exhausted", words, not_done="the request was not carried out", hint=hint)


def install_handlers(app: FastAPI, routes: Sequence[Route]) -> None:
    """Answer what the framework itself refuses (paths, methods, query parameters) with our errors.

    Args:
        app: the application.
        routes: those that it has from routers; what is mounted later is asked of the application.
    """

    def unknown_path(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _answer(
            request, _no_such_path(request, [*routes, *(one for one in app.routes if isinstance(one, Route))])
        )

    def wrong_query(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first: dict[str, Any] = dict(error.errors()[0])
        name = str(first["loc"][-1])
        if first["type"] == "missing":
            return _answer(request, FwError("invalid_argument", f"'{name}' is missing", param=name))
        text = f"'{name}': {str(first['msg']).lower()}, got {first.get('input')!r:.80}"
        return _answer(request, FwError("invalid_argument", text, param=name))

    app.add_exception_handler(HTTPException, unknown_path)
    app.add_exception_handler(RequestValidationError, wrong_query)


def _answer(request: Request, error: FwError) -> Response:
    error.request_id = getattr(request.state, "request_id", None)
    return error_response(request.url.path, error)


def _no_such_path(request: Request, routes: Sequence[Route]) -> FwError:
    """405 with the methods that the path takes; 404 with the nearest path where it takes none."""
    path, method = request.scope["path"], request.method
    allowed = sorted({one for route in routes if route.path_regex.match(path) for one in route.methods or ()})
    message = f"There is no {method} {path[:200]}."
    if allowed and method not in allowed:
        details = {"allow": allowed}
        return FwError("method_not_allowed", message, hint=f"this path takes {', '.join(allowed)}", details=details)
    if path.rstrip("/") != path and any(route.path_regex.match(path.rstrip("/")) for route in routes):
        return FwError("not_found", message, hint=f"did you mean {path.rstrip('/')[:200]}, without the slash?")
    near = _nearest_path(path, routes)
    return FwError("not_found", message, hint=f"did you mean {near}?" if near else "")


def _nearest_path(path: str, routes: Sequence[Route]) -> str | None:
    """The nearest path; where only the verb is wrong, the same thing with the nearest verb."""
    start, colon, verb = path[:200].rpartition(":")
    verbs = {route.path.rpartition(":")[2] for route in routes if "}:" in route.path or "{" not in route.path}
    fitting = {one for one in verbs if any(route.path_regex.match(f"{start}:{one}") for route in routes)}
    near = nearest(verb, fitting) if colon else None
    return f"{start}:{near}" if near else nearest(path[:200], {route.path.replace(":id}", "}") for route in routes})

"""The outermost layer of the app: request ids, and every failure in the shape of its protocol."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fw_sdk.types import FwError, nearest

log = logging.getLogger("fw.http")

CONTROL_PLANE = "/v1/accounts"


def error_response(path: str, error: FwError) -> JSONResponse:
    """``error`` in the envelope that clients of ``path`` expect."""
    control = path.startswith(CONTROL_PLANE) or path.startswith("/v1/health")
    body = error.control_plane_body() if control else error.inference_body(path)
    headers = {"x-request-id": error.request_id} if error.request_id else {}
    if error.retryable and error.http_status in (429, 503):
        headers["retry-after"] = "1"
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body, status_code=error.http_status, headers=headers)


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
    if isinstance(error, FwError):
        error.request_id = request_id
        return error
    log.error("%s %s %s failed", request_id, scope["method"], scope["path"], exc_info=error)
    return FwError(
        "internal",
        f"fw failed to answer this request ({type(error).__name__}).",
        hint=f"the daemon's log has the traceback under {request_id}; please report it",
        request_id=request_id,
    )


def install_handlers(app: FastAPI, routes: Sequence[Route]) -> None:
    """Answer what the framework itself refuses (paths, methods, query parameters) with our errors."""

    def unknown_path(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        path, method = request.url.path, request.method
        allowed = sorted({m for r in routes if r.path_regex.match(path) for m in r.methods or ()} - {"HEAD"})
        if error.status_code == 405:
            hint = f"this path takes {', '.join(allowed)}" if allowed else ""
        else:
            near = nearest(path, {route.path for route in routes})
            hint = f"did you mean {near}?" if near else ""
        found = FwError("not_found", f"There is no {method} {path}.", hint=hint, request_id=_request_id(request))
        return error_response(path, found)

    def wrong_query(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first: dict[str, Any] = dict(error.errors()[0])
        name = str(first["loc"][-1])
        text = f"'{name}': {str(first['msg']).lower()}, got {first.get('input')!r:.80}"
        found = FwError("invalid_argument", text, param=name, request_id=_request_id(request))
        return error_response(request.url.path, found)

    app.add_exception_handler(HTTPException, unknown_path)
    app.add_exception_handler(RequestValidationError, wrong_query)


def _request_id(request: Request) -> str | None:
    value = getattr(request.state, "request_id", None)
    return str(value) if value else None

"""What happens before there is a request: bytes that are no HTTP get an error like every other, in one envelope."""

from __future__ import annotations

import secrets

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.control.http.errors import error_response
from fw_sdk.types import FwError


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, whose answer to what it cannot parse is one of our errors."""

    def send_400_response(self, msg: str) -> None:
        """Answer and close the connection."""
        error = FwError(
            "invalid_argument",
            "The request is not valid HTTP/1.1: its method, path or a header cannot be parsed.",
            not_done="it was not read",
            request_id=f"req_{secrets.token_hex(8)}",
        )
        reply = error_response(getattr(self, "url", b"").decode("latin-1"), error)
        lines = [b"HTTP/1.1 400 Bad Request", b"connection: close"]
        lines += [name + b": " + value for name, value in reply.raw_headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(reply.body))
        self.transport.close()

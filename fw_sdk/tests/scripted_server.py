"""A real HTTP server on loopback that answers from a script: for faults that a healthy daemon does not show."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """What to answer. ``chunks`` are sent one by one; ``drop`` breaks the connection behind them (or at once)."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[str] | None = None
    drop: bool = False


@dataclass
class Script:
    """Where the server is, what it was asked, and how it answers the n-th request (from 0)."""

    answer: Callable[[int, Seen], Reply]
    seen: list[Seen] = field(default_factory=list)
    url: str = ""


@contextmanager
def scripted(answer: Callable[[int, Seen], Reply]) -> Iterator[Script]:
    """Serve ``answer`` until the block ends."""
    script = Script(answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(script))
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {key.lower(): value for key, value in self.headers.items()}
            seen = Seen(self.command, self.path, headers, self.rfile.read(length))
            script.seen.append(seen)
            reply = script.answer(len(script.seen) - 1, seen)
            self.close_connection = True
            if reply.drop and reply.chunks is None:
                self.connection.close()
                return
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("connection", "close")
            for key, value in reply.headers.items():
                self.send_header(key, value)
            if reply.chunks is None:
                data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                return
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for chunk in reply.chunks:
                data = chunk.encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
            if not reply.drop:
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_DELETE = _serve

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    return Handler

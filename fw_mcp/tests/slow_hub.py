"""A model hub on this machine that has every model, each in one file that comes a byte at a time and never ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "c0ffee" + "0" * 34
SIZE = 1 << 30
PAUSE_S = 0.2


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A repository's files, or the file."""
        path = urlsplit(self.path).path
        if path.startswith("/api/models/"):
            file = {
                "rfilename": "model.gguf",
                "size": SIZE,
                "lfs": {"size": SIZE, "sha256": "0" * 64, "pointerSize": 9},
            }
            self._begin(json.dumps({"id": path[12:], "sha": COMMIT, "siblings": [file]}).encode())
            return
        self._begin(b"", SIZE)
        with suppress(OSError):
            while True:
                self.wfile.write(b"G")
                self.wfile.flush()
                time.sleep(PAUSE_S)

    def _begin(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def slow_hub() -> Iterator[str]:
    """Run it; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()

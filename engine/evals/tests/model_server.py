"""A small real HTTP server of the chat protocol: it answers as a function says, and can be told to fail."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from engine.evals.asking import WARM_UP


class ModelServer:
    """Answers each question with ``answer(messages)``, a text or a whole message; counts what it is asked.

    Warming up is answered by itself and counted apart; ``cold_s`` is what the first request of all waits besides.
    ``failures`` are (status, body) pairs that are given before any answer; ``digest`` may change between requests.
    """

    def __init__(self, answer: Callable[[list[dict[str, Any]]], Any], *, port: int = 0, delay_s: float = 0.0) -> None:
        self.answer, self.delay_s = answer, delay_s
        self.cold_s = 0.0
        self.warm_ups = 0
        self.answered_at: list[float] = []
        self.requests: list[dict[str, Any]] = []
        self.failures: list[tuple[int, Any]] = []
        self.authorizations: set[str | None] = set()
        self.digest = "sha256:one"
        self.busy = self.busiest = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.authorizations.add(self.headers.get("authorization"))
                status, reply = server.reply(self.path, body)
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                if server.digest:
                    self.send_header("x-fw-model-digest", server.digest)
                    self.send_header("x-fw-dtype", "float32")
                self.end_headers()
                with suppress(BrokenPipeError):
                    self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Keep quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body for one request."""
        warm_up = body["messages"] == WARM_UP
        with self._lock:
            cold_s, self.cold_s = self.cold_s, 0.0
            if warm_up:
                self.warm_ups += 1
            else:
                self.requests.append(body)
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            failure = self.failures.pop(0) if self.failures else None
        time.sleep(self.delay_s + cold_s)
        with self._lock:
            self.busy -= 1
        if failure:
            return failure
        if path != "/v1/chat/completions":
            return 404, {"error": {"message": f"no {path}"}}
        answered = "Hi" if warm_up else self.answer(body["messages"])
        self.answered_at.append(time.monotonic())
        if isinstance(answered, tuple):
            return answered
        message = answered if isinstance(answered, dict) else {"role": "assistant", "content": answered}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()

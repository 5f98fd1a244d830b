"""A small model hub on this machine: the paths that huggingface-hub asks for, with faults on purpose."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Request:
    """What was asked, and how many bytes of body it got."""

    path: str
    range: str | None
    authorization: str | None
    sent: int = 0


@dataclass
class Repo:
    """Files by name; those over ``lfs_from`` bytes have their SHA-256 in the listing and lie on another host."""

    files: dict[str, bytes]
    gated: bool = False
    licence: str | None = None
    lfs_from: int = 4096
    swapped: dict[str, bytes] = field(default_factory=dict)
    cut_at: dict[str, list[int]] = field(default_factory=dict)

    def sibling(self, name: str) -> dict[str, object]:
        data = self.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        fields: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob}
        if len(data) >= self.lfs_from:
            fields["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
        return fields


class Hub:
    """The server: ``repos`` by name may change while it runs; ``requests`` in order of arrival."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.failing = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Hub]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def of_file(self, name: str) -> list[Request]:
        """The transfers of one file, redirects left out."""
        return [item for item in self.requests if item.path.endswith("/" + name) and item.sent]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        request = Request(path, handler.headers.get("Range"), handler.headers.get("Authorization"))
        self.requests.append(request)
        if self.failing:
            self.failing -= 1
            return _reply(handler, 503, {})
        if found := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            return self._info(handler, *found.groups())
        if found := re.fullmatch(r"/(cdn/)?(.+?)/resolve/([^/]+)/(.+)", path):
            return self._file(handler, request, bool(found[1]), *found.groups()[1:])
        return _reply(handler, 404, {})

    def _info(self, handler: BaseHTTPRequestHandler, name: str, revision: str | None) -> None:
        repo = self.repos.get(name)
        if repo is None:
            return _reply(handler, 401, {}, {"X-Error-Code": "RepoNotFound"})
        if revision not in (None, "main", "v1", COMMIT):
            return _reply(handler, 404, {}, {"X-Error-Code": "RevisionNotFound"})
        card = {"license": repo.licence} if repo.licence else None
        siblings = [repo.sibling(item) for item in repo.files]
        return _reply(handler, 200, {"id": name, "sha": COMMIT, "siblings": siblings, "cardData": card})

    def _file(
        self, handler: BaseHTTPRequestHandler, request: Request, on_cdn: bool, name: str, revision: str, file: str
    ) -> None:
        repo = self.repos[name]
        if repo.gated and not on_cdn and request.authorization != "Bearer let-me-in":
            return _reply(handler, 403, {}, {"X-Error-Code": "GatedRepo"})
        assert revision == COMMIT, "files are asked for by commit, so that a push in between changes nothing"
        data = repo.swapped.get(file, repo.files[file])
        if len(data) >= repo.lfs_from and not on_cdn:
            return _reply(handler, 302, {}, {"Location": f"http://localhost:{self.port}/cdn{request.path}"})
        start = 0
        if request.range:
            start = int(request.range.removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if request.range else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        if request.range:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        cuts = repo.cut_at.get(file, [])
        end = cuts.pop(0) if cuts else len(data)
        request.sent = max(0, end - start)
        handler.wfile.write(data[start:end])
        handler.wfile.flush()
        if end < len(data):
            handler.close_connection = True


def _reply(handler: BaseHTTPRequestHandler, status: int, body: object, headers: dict[str, str] | None = None) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {
        **(headers or {}),
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)

"""Reading what clients send: JSON bodies and uploaded files, within limits, with errors that say what is wrong."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, Query, Request
from pydantic import create_model
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from engine.control.http.services import Provided, services_of
from engine.control.inventory.files import UPLOAD
from engine.control.json_text import parse_json
from fw_sdk.types import FwError, Page, RequestBody, Wire, parse_request

INLINE_BYTES = 64 * 1024
"""A longer JSON text is parsed in a thread, so that nobody else waits for it."""


def _idempotency_key(request: Request) -> str | None:
    return getattr(request.state, "idempotency_key", None)


IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]
"""The request's idempotency key, made the principal's own."""
PageSize = Annotated[int, Query(alias="pageSize")]
PageToken = Annotated[str | None, Query(alias="pageToken")]


async def read_json_body(request: Request, services: Provided) -> Any:
    """The JSON value of a request's body; an empty body is an empty object."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    refuse_encoded(request)
    data = await read_body(request, services.settings.max_json_bytes)
    if not data.strip():
        return {}
    if kind != "application/json":
        raise FwError(
            "unsupported_media_type",
            f"The body is '{kind or 'of no stated type'}', not JSON.",
            hint="send 'Content-Type: application/json'",
        )
    return parse_json(data) if len(data) < INLINE_BYTES else await run_in_threadpool(parse_json, data)


JsonBody = Annotated[Any, Depends(read_json_body)]


class BodyOf:
    """A dependency that gives a request's body as its type; the document of the API reads ``kind`` from it."""

    def __init__(self, kind: type[RequestBody], not_done: str) -> None:
        self.kind, self._not_done = kind, not_done

    def __call__(self, body: JsonBody) -> RequestBody:
        """The body; ``invalid_argument`` names what is wrong with it."""
        return parse_request(self.kind, body, not_done=self._not_done)


def body_of(kind: type[RequestBody], not_done: str) -> Any:
    """For route functions: ``request: Annotated[Kind, body_of(Kind, "nothing was made")]``."""
    return Depends(BodyOf(kind, not_done))


async def read_body(request: Request, limit: int) -> bytes:
    """A request's body; ``payload_too_large`` as soon as it is known to be longer than ``limit`` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large("The body", limit)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise _too_large("The body", limit)
    return bytes(data)


def refuse_encoded(request: Request) -> None:
    """Raise ``unsupported_media_type`` for a body that is compressed: over loopback that saves nothing."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise FwError(
            "unsupported_media_type",
            f"The body has 'Content-Encoding: {encoding[:40]}', which is not supported.",
            not_done="it was not read",
            hint="send it as it is, without Content-Encoding",
        )


def _too_large(what: str, limit: int) -> FwError:
    return FwError(
        "payload_too_large", f"{what} is larger than {limit / 1024**2:.0f} MiB.", not_done="nothing was stored"
    )


@asynccontextmanager
async def uploaded_file(request: Request, folder: Path) -> AsyncIterator[Path]:
    """The multipart field ``file`` as a temporary file in ``folder``, streamed there; removed at the end."""
    async with uploaded_files(request, folder, "file") as files:
        if "file" not in files:
            raise FwError("invalid_argument", "The form has no field 'file'.", param="file")
        yield files["file"]


@asynccontextmanager
async def uploaded_files(request: Request, folder: Path, *fields: str) -> AsyncIterator[dict[str, Path]]:
    """Those of the multipart ``fields`` that were sent, as temporary files in ``folder``; removed at the end."""
    limit = services_of(request).settings.max_upload_bytes
    refuse_encoded(request)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise FwError(
            "unsupported_media_type",
            "The body is not a multipart form.",
            not_done="nothing was stored",
            hint="send the rows as the form field 'file', e.g. curl -F file=@rows.jsonl",
        )
    paths: dict[str, Path] = {}
    try:
        try:
            with ExitStack() as stack:
                files = {}
                for field in fields:
                    descriptor, name = mkstemp(prefix=UPLOAD, dir=folder)
                    paths[field] = Path(name)
                    files[field.encode()] = stack.enter_context(os.fdopen(descriptor, "wb"))
                sink = _FileParts(files, options[b"boundary"], limit)
                async for chunk in request.stream():
                    await run_in_threadpool(sink.feed, chunk)
                await run_in_threadpool(sink.finish)
        except OSError as error:
            text = f"The upload could not be written: {error.strerror}."
            raise FwError("resource_exhausted", text, not_done="nothing was stored", hint="free disk space") from error
        yield {field: path for field, path in paths.items() if field.encode() in sink.seen}
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)


@contextmanager
def _readable() -> Iterator[None]:
    """What the parser refuses is a mistake in the form."""
    try:
        yield
    except ValueError as error:
        raise FwError("invalid_argument", f"The form cannot be read: {error}.", not_done="nothing was stored") from None


class _FileParts:
    """Writes the named parts of a multipart body to files, ``limit`` bytes together, and passes over the others.

    Attributes:
        seen: the names of those that came.
    """

    def __init__(self, files: Mapping[bytes, BinaryIO], boundary: bytes, limit: int) -> None:
        self._files, self._limit = files, limit
        self._written = 0
        self.seen: set[bytes] = set()
        self._into: BinaryIO | None = None
        self._complete = False
        self._header: list[bytes] = [b"", b""]
        self._disposition = b""
        self._wanted = False
        with _readable():
            self._parser = MultipartParser(boundary, self._callbacks())

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        with _readable():
            self._parser.write(chunk)

    def finish(self) -> None:
        """Check that the form was whole, and put the files on the disk, which may take long."""
        if not self._complete:
            raise FwError("invalid_argument", "The form ends too early.", not_done="nothing was stored")
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def _begin(self) -> None:
        self._disposition, self._into = b"", None

    def _add(self, which: int, data: bytes) -> None:
        self._header[which] += data
        if len(self._header[which]) > 8192:
            raise FwError("invalid_argument", "A header of the form is too long.")

    def _header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = [b"", b""]

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"")
        self._into = self._files.get(name)
        if self._into is None:
            return
        if name in self.seen:
            raise FwError("invalid_argument", f"The form has more than one field '{name.decode()}'.", param="file")
        self.seen.add(name)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._into is None:
            return
        self._written += end - start
        if self._written > self._limit:
            raise _too_large("The file", self._limit)
        self._into.write(data[start:end])

    def _end(self) -> None:
        self._complete = True


class Empty(Wire):
    """The reply ``{}``."""


def form_of(*fields: str) -> dict[str, Any]:
    """What the document of the API says of a route that takes files."""
    files = {field: {"type": "string", "format": "binary", "description": "rows as JSONL"} for field in fields}
    form = {"schema": {"type": "object", "properties": files}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form}}}


def reply(value: Wire, status: int = 200) -> JSONResponse:
    """A wire value as the reply."""
    return JSONResponse(value.to_wire(), status_code=status)


def page_of(collection: str, item: type[Wire]) -> Any:
    """The type of a page's reply, for the document of the API."""
    fields: dict[str, Any] = {collection: (list[item], ...), "next_page_token": (str, ...), "total_size": (int, ...)}  # type: ignore[valid-type]
    return create_model(f"List{collection[:1].upper()}{collection[1:]}", __base__=Wire, **fields)


def reply_page(collection: str, page: Page[Any]) -> JSONResponse:
    """A page under its collection's own key."""
    body = {collection: [item.to_wire() for item in page.items], "totalSize": page.total_size}
    return JSONResponse({**body, "nextPageToken": page.next_page_token or ""})

"""Reading what clients send: JSON bodies and uploaded files, within limits, with errors that say what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, Header, Query, Request
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from engine.control.http.services import Provided, services_of
from engine.control.inventory.files import UPLOAD
from fw_sdk.types import FwError, Page, Wire

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)]
PageSize = Annotated[int, Query(alias="pageSize")]
PageToken = Annotated[str | None, Query(alias="pageToken")]


async def read_json_body(request: Request, services: Provided) -> Any:
    """The JSON value of a request's body; an empty body is an empty object."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    data = await _read(request, services.settings.max_json_bytes)
    if not data.strip():
        return {}
    if kind != "application/json":
        raise FwError(
            "invalid_argument",
            f"The body is '{kind or 'of no stated type'}', not JSON.",
            hint="send 'Content-Type: application/json'",
        )
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise FwError("invalid_argument", "The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise FwError("invalid_argument", f"The body is not JSON: {error.msg} at {where}.") from None
    except (ValueError, RecursionError) as error:
        raise FwError("invalid_argument", f"The body is not JSON: {error}.") from None


JsonBody = Annotated[Any, Depends(read_json_body)]


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large("The body", limit)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise _too_large("The body", limit)
    return bytes(data)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


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
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise FwError(
            "invalid_argument",
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
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._add(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add(1, data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except ValueError as error:
            raise FwError("invalid_argument", f"The form cannot be read: {error}.") from None

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


def reply(value: Wire, status: int = 200) -> JSONResponse:
    """A wire value as the reply."""
    return JSONResponse(value.to_wire(), status_code=status)


def reply_page(collection: str, page: Page[Any]) -> JSONResponse:
    """A page under its collection's own key."""
    body = {collection: [item.to_wire() for item in page.items], "totalSize": page.total_size}
    return JSONResponse({**body, "nextPageToken": page.next_page_token or ""})

"""The stdio transport: a message a line, both ways. A line that is none is answered, and the session goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST
from pydantic_core import PydanticSerializationError

from fw_mcp.messages import Malformed, read
from fw_sdk.types import FwError

MAX_LINE_BYTES = 64 * 1024 * 1024

Incoming = SessionMessage | Exception


@dataclass
class Output:
    """Where lines go, whole and one after the other."""

    file: BinaryIO
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def send(self, line: bytes) -> None:
        """Write one line; a client that is gone reads nothing."""
        async with self._lock:
            await anyio.to_thread.run_sync(self._write, line)

    def _write(self, line: bytes) -> None:
        try:
            self.file.write(line + b"\n")
            self.file.flush()
        except BrokenPipeError:
            return


@asynccontextmanager
async def transport() -> AsyncIterator[
    tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]
]:
    """The streams of messages that come on stdin and go to stdout."""
    arriving, incoming = anyio.create_memory_object_stream[Incoming](0)
    outgoing, leaving = anyio.create_memory_object_stream[SessionMessage](0)
    with _claimed() as (source, sink):
        output = Output(sink)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_receive, source, arriving, output)
            tasks.start_soon(_send, leaving, output)
            async with incoming, outgoing:
                yield incoming, outgoing


async def _receive(source: BinaryIO, arriving: MemoryObjectSendStream[Incoming], output: Output) -> None:
    """Hand on what is a message; answer what is none."""
    async with arriving:
        while line := await anyio.to_thread.run_sync(_next_line, source):
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise _too_long()
                message = read(line)
            except Malformed as malformed:
                await output.send(malformed.reply())
                continue
            try:
                await arriving.send(SessionMessage(message))
            except anyio.BrokenResourceError:
                return


async def _send(leaving: MemoryObjectReceiveStream[SessionMessage], output: Output) -> None:
    async with leaving:
        async for item in leaving:
            await output.send(_as_line(item))


def _as_line(item: SessionMessage) -> bytes:
    """A text with half a surrogate pair in it, which no UTF-8 can say, must not end the session."""
    try:
        return item.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except PydanticSerializationError:
        return json.dumps(item.message.model_dump(by_alias=True, exclude_unset=True), default=str).encode()


def _next_line(source: BinaryIO) -> bytes:
    """The next line; of one that is too long the beginning, which is as long as shows it. Empty at the end."""
    line = source.readline(MAX_LINE_BYTES + 1)
    rest = line
    while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
        rest = source.readline(MAX_LINE_BYTES + 1)
    return line


def _too_long() -> Malformed:
    error = FwError(
        "payload_too_large",
        f"The message is longer than {MAX_LINE_BYTES >> 20} MiB.",
        not_done="Nothing was run.",
        hint="put the rows into a file in the workspace and give its path",
    )
    return Malformed(INVALID_REQUEST, error)


@contextmanager
def _claimed() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Stdin and stdout for the protocol alone: meanwhile others read nothing and print to stderr."""
    sys.stdout.flush()
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    try:
        # the descriptors stay open: a thread may still wait for a line when all else has ended
        yield os.fdopen(source, "rb", closefd=False), os.fdopen(sink, "wb", closefd=False)
    finally:
        os.dup2(source, 0)
        os.dup2(sink, 1)

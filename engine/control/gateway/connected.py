"""Work for a client that may go away: it stops when the connection does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request

from fw_sdk.types import FwError

T = TypeVar("T")
InThread = Callable[..., Coroutine[Any, Any, Any]]
"""Runs a function with its arguments in a thread, and gives what it returns."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client goes away. The request's body must be read.

    Raises:
        FwError: ``cancelled`` when the client closed the connection.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise FwError("cancelled", "The client closed the connection.", not_done="the answer was not finished")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def in_thread(work: Callable[[threading.Event], T], run: InThread) -> T:
    """The result of ``work`` in a thread that ``run`` gives.

    When this is cancelled the event is set, and ``work`` must soon end.
    """
    stop = threading.Event()
    running = asyncio.create_task(run(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({running})
        raise


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""The worker pool: one process per base model, started on demand, adopted after a restart, stopped when idle."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from engine.control.serving import worker_process as process
from engine.control.serving.leases import AdapterWeights, Lease, Worker
from engine.control.serving.worker_process import BaseWeights, WorkerFiles, WorkerRecord, worker_id
from engine.control.supervision import AsyncLoop, cancelled_from_outside
from fw_sdk.types import FwError
from fw_sdk.types.home import Home

T = TypeVar("T")

log = logging.getLogger("fw.workers")

ADOPTION_S = 5.0
"""How long the daemon's start waits for found workers; one that is not ready by then is adopted when it is."""

STOP_GRACE_S = 3.0
"""How long a worker may take to end when the daemon stops, before it is killed."""

ABANDON_GRACE_S = 1.0
"""The same for a worker that is given up while it starts: it has no request to finish."""


@dataclass(frozen=True)
class WorkerLimits:
    """How workers are run.

    Attributes:
        dtype, device: what every worker is asked to use.
        start_timeout_s: how long a worker may take until it is ready.
        idle_s: a worker without a deployment stops after so long without a request.
        sweep_s: how often idle and dead workers are looked for.
        max_adapters: adapters kept loaded in one worker that no deployment needs.
        max_crashes: so many deaths within ``crash_window_s`` and the worker is not started again for that long.
    """

    dtype: str = "auto"
    device: str = "auto"
    start_timeout_s: float = 240.0
    idle_s: float = 300.0
    sweep_s: float = 1.0
    max_adapters: int = 8
    max_crashes: int = 3
    crash_window_s: float = 60.0


class Workers:
    """Every worker of this daemon. All methods run on the app's event loop.

    A start, and the loading of an adapter, belong to the pool and not to who asked first: a client that goes away ends
    neither. A worker that nobody wants, running or still starting, is ended by the sweep or by ``release_base``.

    Attributes:
        client: for requests to workers; no proxies, no time limit on answers.
        loop: sweeps.
    """

    def __init__(self, home: Home, limits: WorkerLimits | None = None) -> None:
        self._limits = limits or WorkerLimits()
        self._files = WorkerFiles(home)
        self._workers: dict[str, Worker] = {}
        self._starts: dict[str, asyncio.Task[Worker]] = {}
        self._wanted: Counter[str] = Counter()
        self._last_wanted: dict[str, float] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._deaths: defaultdict[str, deque[float]] = defaultdict(deque)
        self._pins: dict[str, tuple[str, str | None]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.loop = AsyncLoop("workers", self._limits.sweep_s)
        self.client = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )

    async def start(self) -> None:
        """Adopt the workers that an earlier daemon left running, then watch for idle and dead ones."""
        self.loop.start(self.sweep)
        found = await asyncio.to_thread(self._files.living)
        adoptions = [self._begin(record.id, record.base) for record in found]
        if adoptions:
            await asyncio.wait(adoptions, timeout=ADOPTION_S)

    async def stop(self, *, keep_processes: bool) -> None:
        """Stop watching; the workers live on to be adopted again, or end if ``keep_processes`` is false."""
        self._closed = True
        await self.loop.stop()
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not keep_processes:
            records = await asyncio.to_thread(self._files.living)
            await asyncio.gather(*(process.end(self._files, record, grace_s=STOP_GRACE_S) for record in records))
        self._workers.clear()
        await self.client.aclose()

    def kill(self) -> None:
        """End every worker at once, for a daemon that cannot wait; may be called from any thread."""
        for record in self._files.living():
            if record.process is not None:
                record.process.signal_group(signal.SIGKILL)

    def running(self) -> list[Worker]:
        """Workers that are ready and alive."""
        return [worker for worker in self._workers.values() if worker.alive]

    def serves(self, base: BaseWeights) -> bool:
        """Whether a living worker has these base weights."""
        worker = self._workers.get(self._id(base))
        return worker is not None and worker.alive

    def pin(self, owner: str, base: BaseWeights, adapter: AdapterWeights | None) -> None:
        """Keep a base's worker and an adapter loaded for ``owner`` (a deployment) until ``unpin``."""
        self._pins[owner] = (self._id(base), adapter.digest if adapter else None)

    def unpin(self, owner: str) -> None:
        """Take ``owner``'s pin away, if it has one."""
        self._pins.pop(owner, None)

    async def acquire(self, base: BaseWeights, adapter: AdapterWeights | None = None) -> Lease:
        """A lease on a worker that serves ``base`` and has ``adapter`` loaded; starts and loads what is missing.

        Raises:
            FwError: ``worker_lost`` or ``unavailable`` if the worker does not start, or what loading the adapter said.
        """
        identifier = self._id(base)
        self._wanted[identifier] += 1
        try:
            return await self._acquire(base, adapter)
        finally:
            self._wanted[identifier] -= 1
            self._last_wanted[identifier] = time.monotonic()

    def lost(self, worker: Worker) -> FwError:
        """The error of a worker that no longer answers, with the end of its log."""
        return FwError(
            "unavailable",
            f"The worker of '{worker.record.base.name}' stopped answering.",
            not_done="the request was not finished",
            hint="send the request again: a new worker is started for it; its log says why the old one ended",
            details={"logTail": self._files.log_tail(worker.record.id)},
        )

    async def healthy(self, worker: Worker) -> bool:
        """Whether a worker can still answer; one that says it cannot is ended, so that the next request starts anew."""
        try:
            reply = await self.client.get(worker.facts.url.rstrip("/") + "/health", timeout=10.0)
        except httpx.TransportError:
            return False
        if reply.is_success:
            return True
        log.warning("worker %s says it is %s", worker.record.id, reply.text[:200])
        async with self._locks[worker.record.id]:
            if self._workers.get(worker.record.id) is worker:
                await process.end(self._files, worker.record)
                self._forget_dead(worker)
        return False

    async def release_base(self, base: BaseWeights, adapter: AdapterWeights | None) -> None:
        """Free what a stopped deployment held: its adapter, and the worker itself unless something else needs it."""
        identifier = self._id(base)
        if identifier in self._starts:
            if not self._needed(identifier):
                await self._owned(self._abandon(identifier))
            return
        async with self._locks[identifier]:
            worker = self._workers.get(identifier)
            if worker is None:
                return
            name = adapter.digest if adapter else base.digest
            others = sum(count for model, count in worker.in_use.items() if model != name)
            if not self._needed(identifier) and not others:
                await self._end(worker)
            elif adapter is not None and worker.alive:
                await self._owned(self._unload_unused(worker, adapter.digest))

    async def sweep(self, idle_s: float | None = None) -> None:
        """Forget workers that died and stop those that no deployment needs and nobody asked for ``idle_s`` seconds.

        Without ``idle_s`` it is the limit of the settings; 0 frees what can be freed now.
        """
        before = time.monotonic() - (self._limits.idle_s if idle_s is None else idle_s)
        for worker in [worker for worker in self._workers.values() if not worker.alive]:
            self._forget_dead(worker)
        ends: list[Coroutine[Any, Any, None]] = []
        for identifier in self._starts:
            if self._last_wanted[identifier] < before and not self._needed(identifier):
                log.info("nobody waits for worker %s any more: its start is given up", identifier)
                ends.append(self._abandon(identifier))
        for identifier, worker in self._workers.items():
            if worker.last_used < before and not worker.in_use.total() and not self._needed(identifier):
                log.info("worker %s is idle and stops", identifier)
                ends.append(self._end_idle(worker))
        await asyncio.gather(*(self._owned(end) for end in ends))

    def _needed(self, identifier: str) -> bool:
        """Whether a deployment holds a worker, or somebody waits for it."""
        return bool(self._wanted[identifier]) or any(pin == identifier for pin, _ in self._pins.values())

    def _id(self, base: BaseWeights) -> str:
        return worker_id(base.digest, self._limits.dtype, self._limits.device)

    async def _acquire(self, base: BaseWeights, adapter: AdapterWeights | None) -> Lease:
        for last in (False, True):
            worker = await self._ensure(base)
            lease = Lease(worker, adapter.digest if adapter else base.digest)
            try:
                if adapter is not None:
                    await self._owned(self._load(worker, adapter))
                return lease
            except httpx.TransportError as error:
                lease.release()
                if last:
                    raise self.lost(worker) from error
            except BaseException:
                lease.release()
                raise
        raise AssertionError("unreachable")

    async def _ensure(self, base: BaseWeights) -> Worker:
        identifier = self._id(base)
        worker = self._workers.get(identifier)
        if worker is not None and worker.alive:
            return worker
        return await _shared(self._starts.get(identifier) or self._begin(identifier, base))

    async def _owned(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which goes on if who waits for it is cancelled."""
        return await _shared(self._kept(asyncio.create_task(work)))

    def _kept(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """A task that ``stop`` ends."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _begin(self, identifier: str, base: BaseWeights) -> asyncio.Task[Worker]:
        """Start a worker, or adopt the one that runs; whoever wants it waits for this one task."""
        if self._closed:
            raise _stopping()
        task = self._kept(asyncio.create_task(self._start(identifier, base), name=f"fw-worker-{identifier}"))
        self._starts[identifier] = task
        self._last_wanted[identifier] = time.monotonic()

        def done(task: asyncio.Task[Worker]) -> None:
            if self._starts.get(identifier) is task:
                del self._starts[identifier]
            if not task.cancelled() and task.exception() is not None:
                log.warning("worker %s did not start: %s", identifier, task.exception())

        task.add_done_callback(done)
        return task

    async def _start(self, identifier: str, base: BaseWeights) -> Worker:
        async with self._locks[identifier]:
            worker = self._workers.get(identifier)
            if worker is not None and worker.alive:
                return worker
            if worker is not None:
                self._forget_dead(worker)
            self._refuse_crash_loop(base, identifier)
            record = await _to_the_end(lambda: self._found_or_spawned(identifier, base))
            try:
                return await self._adopt(record)
            except Exception:
                await process.end(self._files, record)
                raise

    def _found_or_spawned(self, identifier: str, base: BaseWeights) -> WorkerRecord:
        found = self._files.find(identifier)
        if found is not None:
            return found
        if not base.path.exists():
            raise FwError(
                "failed_precondition",
                f"The files of '{base.name}' are gone: there is no {base.path}.",
                not_done="the model is not served",
                hint="pull the model again",
            )
        return process.spawn(self._files, WorkerRecord.new(base, self._limits.dtype, self._limits.device))

    async def _abandon(self, identifier: str) -> None:
        """Give a start up that nobody wants, and end its process, unless somebody comes to want it meanwhile."""
        task = self._starts.pop(identifier, None)
        if task is None:
            return
        task.cancel()
        async with self._locks[identifier]:
            if self._needed(identifier):
                return
            self._workers.pop(identifier, None)
            record = await asyncio.to_thread(self._files.find, identifier)
            if record is not None:
                await process.end(self._files, record, grace_s=ABANDON_GRACE_S)

    async def _adopt(self, record: WorkerRecord) -> Worker:
        """Wait until a living process is ready, check that it serves the right weights, and list it."""
        facts = await process.wait_ready(self._files, record, self._limits.start_timeout_s)
        if facts.model_digest != record.base.digest:
            raise FwError(
                "failed_precondition",
                f"The files of '{record.base.name}' changed: they are {facts.model_digest[:19]} now, "
                f"registered as {record.base.digest[:19]}.",
                not_done="the model is not served",
                hint="pull the model again",
            )
        worker = Worker(record, facts)
        try:
            worker.adapters = dict.fromkeys(await self._loaded(worker), worker.last_used)
        except httpx.TransportError as error:
            raise self.lost(worker) from error
        self._workers[record.id] = worker
        return worker

    async def _loaded(self, worker: Worker) -> list[str]:
        reply = await self._call(worker, "GET", "/v1/models")
        names = [str(item["id"]) for item in reply["data"]]
        return [name for name in names if name != worker.record.base.digest]

    async def _load(self, worker: Worker, adapter: AdapterWeights) -> None:
        async with worker.loading:
            if adapter.digest not in worker.adapters:
                body = {"lora_name": adapter.digest, "lora_path": str(adapter.path)}
                await self._call(worker, "POST", "/v1/load_lora_adapter", body)
            worker.adapters[adapter.digest] = time.monotonic()
            await self._unload_oldest(worker)

    async def _unload_oldest(self, worker: Worker) -> None:
        pinned = self._pinned_adapters(worker)
        spare = [digest for digest in worker.adapters if digest not in pinned]
        idle = sorted((digest for digest in spare if not worker.in_use[digest]), key=worker.adapters.__getitem__)
        for digest in idle[: max(0, len(spare) - self._limits.max_adapters)]:
            await self._unload(worker, digest)

    async def _unload_unused(self, worker: Worker, digest: str) -> None:
        async with worker.loading:
            used = worker.in_use[digest] or digest in self._pinned_adapters(worker)
            if digest in worker.adapters and not used:
                await self._unload(worker, digest)

    async def _unload(self, worker: Worker, digest: str) -> None:
        await self._call(worker, "POST", "/v1/unload_lora_adapter", {"lora_name": digest})
        worker.adapters.pop(digest, None)

    def _pinned_adapters(self, worker: Worker) -> set[str | None]:
        return {adapter for identifier, adapter in self._pins.values() if identifier == worker.record.id}

    async def _call(self, worker: Worker, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"authorization": f"Bearer {worker.record.token}"}
        url = worker.facts.url.rstrip("/") + path
        reply = await self.client.request(method, url, json=body, headers=headers, timeout=120.0)
        if reply.is_error:
            raise worker_error(reply)
        return reply.json() if reply.headers.get("content-type", "").startswith("application/json") else None

    async def _end_idle(self, worker: Worker) -> None:
        identifier = worker.record.id
        async with self._locks[identifier]:
            if self._workers.get(identifier) is worker and not worker.in_use.total() and not self._needed(identifier):
                await self._end(worker)

    async def _end(self, worker: Worker) -> None:
        self._workers.pop(worker.record.id, None)
        await process.end(self._files, worker.record)

    def _forget_dead(self, worker: Worker) -> None:
        log.warning("worker %s died", worker.record.id)
        if self._workers.pop(worker.record.id, None) is not None:
            self._deaths[worker.record.id].append(time.monotonic())
            self._files.forget(worker.record.id)

    def _refuse_crash_loop(self, base: BaseWeights, identifier: str) -> None:
        deaths, limits = self._deaths[identifier], self._limits
        while deaths and time.monotonic() - deaths[0] > limits.crash_window_s:
            deaths.popleft()
        if len(deaths) >= limits.max_crashes:
            raise FwError(
                "worker_lost",
                f"The worker of '{base.name}' died {len(deaths)} times within {limits.crash_window_s:.0f} s.",
                not_done="it was not started again",
                hint=f"read {self._files.log(identifier)}; free memory; it may start again in a minute",
                details={"logTail": self._files.log_tail(identifier)},
            )


async def _shared(task: asyncio.Task[T]) -> T:
    """The result of a task that others may wait for too: cancelling who waits leaves it running."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if cancelled_from_outside():
            raise
        raise _stopping() from None


async def _to_the_end(work: Callable[[], T]) -> T:
    """The result of ``work`` in a thread; a cancellation arrives only when the thread has finished."""
    thread = asyncio.create_task(asyncio.to_thread(work))
    cancelled = None
    while not thread.done():
        try:
            await asyncio.wait({thread})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from thread.exception()
    return thread.result()


def _stopping() -> FwError:
    return FwError(
        "unavailable",
        "The worker is being stopped.",
        not_done="the request was not begun",
        hint="send the request again",
    )


def worker_error(reply: httpx.Response) -> FwError:
    """The error that a worker answered with, as the one it raised."""
    try:
        fields = reply.json()["error"]
        return FwError.from_dict({**fields, "code": fields.get("code") or "internal"})
    except (ValueError, KeyError, TypeError, AttributeError):
        return FwError("internal", f"A worker answered {reply.status_code}: {reply.text[:200]}")

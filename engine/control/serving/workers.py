"""The worker pool: one process per base model, started on demand, adopted after a restart, stopped when idle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from engine.control.serving import worker_process as process
from engine.control.serving.worker_process import BaseWeights, WorkerFacts, WorkerFiles, WorkerRecord, worker_id
from fw_sdk.types import FwError
from fw_sdk.types.home import Home

log = logging.getLogger("fw.workers")

ADOPTION_S = 5.0
"""How long the daemon's start waits for found workers; one that is not ready by then is adopted when it is."""


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter to be served: its digest, which is also its name inside the worker, and its folder."""

    digest: str
    path: Path


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


@dataclass
class Worker:
    """One running worker.

    Attributes:
        record, facts: what we and what it itself know about it.
        adapters: digests of loaded adapters with the time of their last use.
        in_use: requests in flight per worker-side model name.
        last_used: when a request last began or ended.
        loading: held while adapters are loaded or unloaded.
    """

    record: WorkerRecord
    facts: WorkerFacts
    adapters: dict[str, float] = field(default_factory=dict)
    in_use: Counter[str] = field(default_factory=Counter)
    last_used: float = field(default_factory=time.monotonic)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        return self.record.process is not None and self.record.process.alive


class Lease:
    """The right to send requests for one model to one worker; while it is held, neither is stopped or unloaded.

    Attributes:
        worker: where to send them.
        model: the model's name inside the worker: the digest of its weights.
    """

    def __init__(self, worker: Worker, model: str) -> None:
        self.worker = worker
        self.model = model
        self._held = True
        worker.in_use[model] += 1
        self._touch()

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that the worker asks for."""
        return {"authorization": f"Bearer {self.worker.record.token}"}

    def url(self, path: str) -> str:
        """The worker's address for a path such as ``/v1/chat/completions``."""
        return self.worker.facts.url.rstrip("/") + path

    def release(self) -> None:
        """Give the lease back; again is harmless."""
        if self._held:
            self._held = False
            self.worker.in_use[self.model] -= 1
            self._touch()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.release()

    def _touch(self) -> None:
        self.worker.last_used = time.monotonic()
        if self.model in self.worker.adapters:
            self.worker.adapters[self.model] = self.worker.last_used


class Workers:
    """Every worker of this daemon. All methods run on the app's event loop.

    Attributes:
        client: for requests to workers; no proxies, no time limit on answers.
    """

    def __init__(self, home: Home, limits: WorkerLimits | None = None) -> None:
        self._limits = limits or WorkerLimits()
        self._files = WorkerFiles(home)
        self._workers: dict[str, Worker] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._deaths: defaultdict[str, deque[float]] = defaultdict(deque)
        self._pins: dict[str, tuple[str, str | None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.client = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )

    async def start(self) -> None:
        """Adopt the workers that an earlier daemon left running, then watch for idle and dead ones."""
        self._tasks.append(asyncio.create_task(self._sweep_forever(), name="fw-workers"))
        adoptions = [asyncio.create_task(self._adopt_found(record)) for record in self._files.living()]
        self._tasks += adoptions
        if adoptions:
            await asyncio.wait(adoptions, timeout=ADOPTION_S)

    async def stop(self, *, keep_processes: bool) -> None:
        """Stop watching; the workers live on to be adopted again, or end if ``keep_processes`` is false."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not keep_processes:
            await asyncio.gather(*(process.end(self._files, record) for record in self._files.living()))
        self._workers.clear()
        await self.client.aclose()

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
        for last in (False, True):
            worker = await self._ensure(base)
            lease = Lease(worker, adapter.digest if adapter else base.digest)
            try:
                if adapter is not None:
                    await self._ensure_adapter(worker, adapter)
                return lease
            except httpx.TransportError as error:
                lease.release()
                if last:
                    raise self.lost(worker) from error
            except BaseException:
                lease.release()
                raise
        raise AssertionError("unreachable")

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
        await process.end(self._files, worker.record)
        return False

    async def release_base(self, base: BaseWeights, adapter: AdapterWeights | None) -> None:
        """Free what a stopped deployment held: its adapter, and the worker itself unless something else needs it."""
        identifier = self._id(base)
        async with self._locks[identifier]:
            worker = self._workers.get(identifier)
            if worker is None:
                return
            name = adapter.digest if adapter else base.digest
            pinned = {pin for owner, pin in self._pins.items() if pin[0] == identifier}
            others = sum(count for model, count in worker.in_use.items() if model != name)
            if not pinned and not others:
                await self._end(worker)
            elif adapter is not None and (identifier, adapter.digest) not in pinned and worker.alive:
                async with worker.loading:
                    await self._unload(worker, adapter.digest)

    async def sweep(self, idle_s: float | None = None) -> None:
        """Forget workers that died and stop those that no deployment needs and nobody asked for ``idle_s`` seconds.

        Without ``idle_s`` it is the limit of the settings; 0 frees what can be freed now.
        """
        now = time.monotonic()
        idle_s = self._limits.idle_s if idle_s is None else idle_s
        pinned = {identifier for identifier, _ in self._pins.values()}
        for identifier, worker in list(self._workers.items()):
            if not worker.alive:
                self._forget_dead(worker)
                continue
            idle = not worker.in_use.total() and now - worker.last_used > idle_s
            if idle and identifier not in pinned and not self._locks[identifier].locked():
                log.info("worker %s is idle and stops", identifier)
                async with self._locks[identifier]:
                    await self._end(worker)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_s)
            await self.sweep()

    def _id(self, base: BaseWeights) -> str:
        return worker_id(base.digest, self._limits.dtype, self._limits.device)

    async def _ensure(self, base: BaseWeights) -> Worker:
        identifier = self._id(base)
        worker = self._workers.get(identifier)
        if worker is not None and worker.alive:
            return worker
        async with self._locks[identifier]:
            worker = self._workers.get(identifier)
            if worker is not None and worker.alive:
                return worker
            if worker is not None:
                self._forget_dead(worker)
            self._refuse_crash_loop(base, identifier)
            record = self._files.find(identifier)
            if record is None:
                fresh = WorkerRecord.new(base, self._limits.dtype, self._limits.device)
                record = process.spawn(self._files, fresh)
            return await self._adopt(record)

    async def _adopt_found(self, record: WorkerRecord) -> None:
        with suppress(FwError):
            async with self._locks[record.id]:
                if record.id not in self._workers:
                    await self._adopt(record)

    async def _adopt(self, record: WorkerRecord) -> Worker:
        """Wait until a living process is ready, check that it serves the right weights, and list it."""
        facts = await process.wait_ready(self._files, record, self._limits.start_timeout_s)
        if facts.model_digest != record.base.digest:
            await process.end(self._files, record)
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

    async def _ensure_adapter(self, worker: Worker, adapter: AdapterWeights) -> None:
        async with worker.loading:
            if adapter.digest not in worker.adapters:
                body = {"lora_name": adapter.digest, "lora_path": str(adapter.path)}
                await self._call(worker, "POST", "/v1/load_lora_adapter", body)
            worker.adapters[adapter.digest] = time.monotonic()
            await self._unload_oldest(worker)

    async def _unload_oldest(self, worker: Worker) -> None:
        pinned = {adapter for identifier, adapter in self._pins.values() if identifier == worker.record.id}
        spare = [digest for digest in worker.adapters if digest not in pinned]
        idle = sorted((digest for digest in spare if not worker.in_use[digest]), key=worker.adapters.__getitem__)
        for digest in idle[: max(0, len(spare) - self._limits.max_adapters)]:
            await self._unload(worker, digest)

    async def _unload(self, worker: Worker, digest: str) -> None:
        if worker.adapters.pop(digest, None) is not None:
            await self._call(worker, "POST", "/v1/unload_lora_adapter", {"lora_name": digest})

    async def _call(self, worker: Worker, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"authorization": f"Bearer {worker.record.token}"}
        url = worker.facts.url.rstrip("/") + path
        reply = await self.client.request(method, url, json=body, headers=headers, timeout=120.0)
        if reply.is_error:
            raise worker_error(reply)
        return reply.json() if reply.headers.get("content-type", "").startswith("application/json") else None

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


def worker_error(reply: httpx.Response) -> FwError:
    """The error that a worker answered with, as the one it raised."""
    try:
        fields = reply.json()["error"]
        return FwError.from_dict({**fields, "code": fields.get("code") or "internal"})
    except (ValueError, KeyError, TypeError, AttributeError):
        return FwError("internal", f"A worker answered {reply.status_code}: {reply.text[:200]}")

"""A worker that answers, and leases on it: while a model is leased, neither it nor its worker is stopped."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from engine.control.serving.worker_process import WorkerFacts, WorkerRecord


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter to be served: its digest, which is also its name inside the worker, and its folder."""

    digest: str
    path: Path


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

"""The store: the collections, the job table and the counters of one database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from sqlalchemy import func, select
from sqlalchemy.dialects.sqlite import insert

from engine.control.store import records
from engine.control.store.collection import Collection
from engine.control.store.database import Database
from engine.control.store.job_table import JobTable
from engine.control.store.replies import Replies
from engine.control.store.tables import counter, job, resource
from fw_sdk.types import Comparison, Dataset, Deployment, Evaluator, Model

P = ParamSpec("P")
T = TypeVar("T")
THREADS = 16
"""How many calls of coroutines work on the store at once; more of them wait, and nothing else does."""


class Store:
    """Everything the daemon remembers. Safe to use from several threads, and never on an event loop: see ``run``.

    Attributes:
        datasets, models, evaluators, comparisons, deployments: collections by id.
        jobs: pulls, fine-tunes, evaluations and pipelines.
        replies: what requests with an idempotency key got.
    """

    def __init__(self, path: Path) -> None:
        """Open the database, creating or migrating it; a newer or unreadable one is ``failed_precondition``."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._database = Database(path)
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="fw-store")
        self.datasets = Collection(self._database, "datasets", Dataset, "dataset", has_files=True)
        self.models = Collection(self._database, "models", Model, "model", has_files=True)
        self.evaluators = Collection(self._database, "evaluators", Evaluator, "evaluator", has_files=True)
        self.comparisons = Collection(self._database, "comparisons", Comparison, "comparison")
        self.deployments = Collection(self._database, "deployments", Deployment, "deployment")
        self.jobs = JobTable(self._database)
        self.replies = Replies(self._database)
        self._refuse_newer_records()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``function`` returns, which asks the store: for coroutines, in threads that are there for nothing else.

        A database that is slow or locked then delays those who ask it and nobody else.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(function, *args, **kwargs))

    def next_number(self, name: str) -> int:
        """The next number of a counter, from 1; never given twice."""
        with self._database.write() as connection:
            query = insert(counter).values(name=name, value=1)
            query = query.on_conflict_do_update(index_elements=["name"], set_={"value": counter.c.value + 1})
            connection.execute(query)
            return int(connection.execute(select(counter.c.value).where(counter.c.name == name)).scalar_one())

    def next_id(self, prefix: str, key: str | None = None) -> str:
        """A fresh readable id such as ``ft-smollm2-135m-0001``; the prefix is shortened to fit 63 characters.

        An idempotency ``key`` gets the same id each time, so that what died in between is not done twice.
        """
        prefix = prefix[:58].rstrip("-._")

        def fresh() -> str:
            return f"{prefix}-{self.next_number(f'id:{prefix}'):04d}"

        return self.replies.identifier(f"{prefix} {key}", fresh) if key else fresh()

    def _refuse_newer_records(self) -> None:
        """A home that holds records of a newer version is not opened, so that none of them loses a field."""
        with self._database.read() as connection:
            for kind, table in ((resource.c.collection, resource), (job.c.kind, job)):
                for name, version in connection.execute(select(kind, func.max(table.c.version)).group_by(kind)):
                    if version > records.version_of(name):
                        self._database.close()
                        raise records.newer(name, version)

    def close(self) -> None:
        """Close the database, after the calls that are under way."""
        self._executor.shutdown()
        self._database.close()

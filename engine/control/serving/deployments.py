"""Deployments: a model under a stable name, behind a gate, READY only after its worker answered a probe."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from engine.control.evidence import gates
from engine.control.inventory.resolution import named_model
from engine.control.serving.probe import probe
from engine.control.serving.targets import Target, target_of_deployment, target_of_model
from engine.control.serving.worker_process import WorkerFacts
from engine.control.serving.workers import Workers
from engine.control.store import Store
from engine.control.supervision import AsyncLoop, Backoff
from fw_sdk.types import (
    Comparison,
    CreateDeployment,
    Deployment,
    DeploymentState,
    FwError,
    Gate,
    ServedConfiguration,
    StatusMessage,
    answering,
    resource_id,
    resource_name,
)

log = logging.getLogger("fw.deployments")

SETTLE_POLL_S = 0.05
WATCH_S = 0.5
STABLE_S = 60.0
"""A deployment that was READY for so long begins with the shortest pause again when it fails."""

MENDABLE = frozenset({"worker_lost", "unavailable", "resource_exhausted", "out_of_memory", "internal"})
"""Failures that may be gone at the next try; every other one stays until somebody deploys again."""


@dataclass(frozen=True)
class Passed:
    """A probe that was passed: seconds of the answer, the digest that answers carry, and what is to be remarked."""

    latency_s: float
    serving_digest: str
    remark: str


class Superseded(Exception):
    """A deployment was changed by somebody else, so that what was found out about it no longer counts."""


class Deployments:
    """Every deployment of this daemon. All methods run on the app's event loop; the store is asked in threads.

    A deployment is CREATING while its worker starts and is probed, then READY or FAILED. When its worker dies, or the
    daemon starts again, it goes through the same door once more. What it replaces answers until it is READY. A failure
    that may mend is tried again after growing pauses.

    Attributes:
        loop: takes up what needs it.
    """

    def __init__(self, store: Store, workers: Workers, base_url: str, retries: Backoff | None = None) -> None:
        self._store = store
        self._workers = workers
        self._url = f"{base_url.rstrip('/')}/v1"
        self._retries = retries or Backoff(first_s=5.0, most_s=600.0)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._frees: dict[str, asyncio.Task[None]] = {}
        self._failures: Counter[str] = Counter()
        self._ready_since: dict[str, float] = {}
        self._changing = asyncio.Lock()
        self.loop = AsyncLoop("deployments", WATCH_S)

    async def start(self) -> None:
        """Bring what an earlier daemon served back, finish what it was stopping, then watch."""
        with self.loop.part("taking deployments up"):
            await self._tick()
        self.loop.start(self._tick)

    async def stop(self, *, keep_processes: bool) -> None:
        """End the background tasks; the workers are not ours to stop."""
        await self.loop.stop()
        tasks = [*self._tasks.values(), *self._frees.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(
        self, request: CreateDeployment, identifier: str | None = None, *, key: str | None = None
    ) -> Deployment:
        """Store a deployment as CREATING and begin to bring it up; what the same id served before answers meanwhile.

        Without an id, the idempotency ``key`` gives one.

        An equal request for the same id returns what exists, and tries again if that had failed.

        Raises:
            FwError: ``gate_not_met`` unless the gate holds or it is forced; ``not_found``; ``failed_precondition``.
        """
        async with self._changing:
            deployment, is_new = await self._store.run(self._place, request, identifier, key)
            if is_new:
                self._failures.pop(deployment.id, None)
                self._activate(deployment)
        return deployment

    async def delete(self, identifier: str) -> None:
        """Stop serving and free everything the deployment held; returns when it is gone."""
        async with self._changing:
            deployment = await self._store.run(self._store.deployments.update_unused, identifier, _deleting)
            await self._cancel(identifier)
        await self._free(deployment)

    async def withdraw(self, identifier: str, model: str) -> None:
        """Take a deployment of ``model`` back that never passed its probe; what it replaces is served as before.

        One that has passed, is of another model, or does not exist, stays as it is.
        """
        async with self._changing:
            found = await self._store.run(self._store.deployments.find, identifier)
            mine = found is not None and found.base_model == resource_name("models", resource_id(model, "models"))
            if found is None or not mine or found.state is not DeploymentState.CREATING or _passed(found):
                return
            await self._cancel(identifier)
            with suppress(Superseded):
                restored = await self._change(found, _restored if found.previous else _deleting)
                log.info("deployment %s of '%s' was withdrawn", identifier, model)
                if restored.state is DeploymentState.DELETING:
                    await self._free(restored)
                else:
                    self._workers.unpin(identifier)
                    await self._release(found)
                    self._activate(restored)

    async def target(self, identifier: str) -> Target:
        """The weights behind a deployment, as soon as something answers; an error if it failed or is being stopped."""
        while True:
            deployment = await self._store.run(self._store.deployments.get, identifier)
            served = answering(deployment)
            if served is not None:
                return await self._store.run(target_of_deployment, self._store, served)
            if deployment.state is not DeploymentState.CREATING:
                raise _not_serving(deployment)
            task = self._tasks.get(identifier)
            if task is None or task.done():
                await asyncio.sleep(SETTLE_POLL_S)
            else:
                await asyncio.wait({task})

    def answering(self) -> list[Deployment]:
        """Deployments that answer now. Asks the store."""
        return [item for item in self._store.deployments.all() if answering(item) is not None]

    def shown(self, deployment: Deployment) -> Deployment:
        """A stored deployment as clients see it: with the address at which this daemon answers."""
        return deployment.model_copy(update={"url": self._url})

    def _place(self, request: CreateDeployment, identifier: str | None, key: str | None) -> tuple[Deployment, bool]:
        """The stored deployment of a request, and whether it is to be brought up."""
        store = self._store.deployments
        model = named_model(self._store, request.base_model)
        target = target_of_model(self._store, model)
        comparison = self._comparison(request.comparison)
        if not request.force:
            self._pass_gate(request.gate, comparison, target)
        if identifier:
            identifier = resource_id(identifier, "deployments")
        else:
            stem = f"d-{model.id}"
            identifier = self._store.next_id(stem, key)
        wanted = Deployment(
            name=resource_name("deployments", identifier),
            display_name=request.display_name,
            base_model=model.name,
            model_digest=target.digest,
            comparison=comparison.name if comparison else None,
            gate=request.gate,
            forced=request.force,
            sampling=gates.sampled(comparison, target.digest),
        )
        existing = store.find(identifier)
        if existing is None:
            there = partial(target_of_deployment, self._store, wanted)
            return store.create(wanted, request=request, place=there), True
        if existing.state is DeploymentState.DELETING:
            raise FwError(
                "failed_precondition", f"Deployment '{identifier}' is being stopped.", hint="try again in a moment"
            )
        if _same(existing, wanted) and existing.state is not DeploymentState.FAILED:
            return existing, False
        return self._replace(identifier, wanted), True

    def _replace(self, identifier: str, wanted: Deployment) -> Deployment:
        def change(old: Deployment) -> Deployment:
            target_of_deployment(self._store, wanted)
            return _replacing(old, wanted)

        return self._store.deployments.update(identifier, change)

    def _pass_gate(self, gate: Gate, comparison: Comparison | None, target: Target) -> None:
        candidate = gates.Candidate(target.model.name, target.digest)
        decision = gates.decide(gate, comparison, candidate)
        if not decision.holds:
            raise gates.refusal(decision, gate, comparison, candidate)

    def _comparison(self, name: str | None) -> Comparison | None:
        return self._store.comparisons.get(resource_id(name, "comparisons")) if name else None

    def _activate(self, deployment: Deployment) -> None:
        earlier = self._tasks.pop(deployment.id, None)
        if earlier is not None:
            earlier.cancel()
        task = asyncio.create_task(self._bring_up(deployment), name=f"fw-deploy-{deployment.id}")
        self._tasks[deployment.id] = task

    async def _cancel(self, identifier: str) -> None:
        task = self._tasks.pop(identifier, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _bring_up(self, deployment: Deployment) -> None:
        with self.loop.part(f"deployment {deployment.id}"), suppress(Superseded):
            try:
                await self._hold_previous(deployment)
                passed = await self._probe(deployment)
            except FwError as error:
                log.warning("deployment %s failed: %s", deployment.id, error.message)
                await self._failed(deployment, error)
            except Exception as error:  # a bug of ours must not leave the deployment CREATING for ever
                await self._failed(deployment, FwError("internal", f"{type(error).__name__}: {error}"))
                raise
            else:
                found: dict[str, Any] = {"probe_latency_s": passed.latency_s, "serving_digest": passed.serving_digest}
                await self._set(deployment, DeploymentState.READY, passed.remark, previous=None, **found)
                self._workers.unpin(_previous_owner(deployment))
                self._ready_since[deployment.id] = time.monotonic()

    async def _failed(self, deployment: Deployment, error: FwError) -> None:
        """Record a failure, and when it is tried again if that may help. What it replaces is served on."""
        message, retry_time = error.text(), None
        if deployment.previous is not None:
            message += f" '{resource_id(deployment.previous.base_model, 'models')}' is still served under this name."
        if error.code in MENDABLE:
            retry_time = datetime.now(UTC) + timedelta(seconds=self._pause_s(deployment.id))
            message += f" It is tried again at {retry_time:%H:%M:%S} UTC."
        await self._set(deployment, DeploymentState.FAILED, message, code=error.code, retry_time=retry_time)
        self._workers.unpin(deployment.id)

    def _pause_s(self, identifier: str) -> float:
        """The pause before the next try; it grows until the deployment was READY for a while."""
        since = self._ready_since.pop(identifier, None)
        if since is not None and time.monotonic() - since > STABLE_S:
            self._failures.pop(identifier, None)
        self._failures[identifier] += 1
        return self._retries.pause_s(self._failures[identifier])

    async def _hold_previous(self, deployment: Deployment) -> None:
        """Keep what a deployment replaces loaded, for as long as its weights are there."""
        if deployment.previous is not None:
            with suppress(FwError):
                target = await self._store.run(target_of_deployment, self._store, deployment.previous)
                self._workers.pin(_previous_owner(deployment), target.base, target.adapter)

    async def _probe(self, deployment: Deployment) -> Passed:
        """Start what serves the deployment and ask it something."""
        target = await self._store.run(target_of_deployment, self._store, deployment)
        self._workers.pin(deployment.id, target.base, target.adapter)
        started = time.monotonic()
        with await self._workers.acquire(target.base, target.adapter) as lease:
            evaluated = gates.evaluated(await self._store.run(self._comparison, deployment.comparison))
            difference = _difference(evaluated, lease.worker.facts)
            if difference and not deployment.forced:
                raise FwError(
                    "gate_not_met",
                    f"'{target.model.id}' would not be served as it was evaluated: {difference}.",
                    not_done=f"deployment '{deployment.id}' does not serve it",
                    hint="evaluate and compare it again on this machine, or deploy it anyway with force",
                )
            result = await probe(self._workers.client, lease, target)
        if not result.differs_from_base and not deployment.forced:
            raise FwError(
                "failed_precondition",
                f"'{target.model.id}' answers exactly as its base: the adapter changes nothing.",
                not_done=f"deployment '{deployment.id}' does not serve it",
                hint="train it with more steps or a higher learning rate, or deploy it anyway with force",
            )
        log.info("deployment %s is ready after %.1f s", deployment.id, time.monotonic() - started)
        remark = difference if result.differs_from_base else "the adapter changes nothing"
        return Passed(result.latency_s, target.serving_digest(lease.worker.facts), remark)

    async def _tick(self) -> None:
        for identifier in await self._store.run(self._store.deployments.ids):
            with self.loop.part(f"deployment {identifier}"), suppress(Superseded):
                await self._look_at(identifier)

    async def _look_at(self, identifier: str) -> None:
        """Take a deployment up that nothing works on: after a restart, a death of its worker, or a pause."""
        deployment = await self._store.run(self._store.deployments.find, identifier)
        task = self._tasks.get(identifier)
        if deployment is None or (task is not None and not task.done()):
            return
        if deployment.state is DeploymentState.DELETING:
            await self._free(deployment)
        elif deployment.state is DeploymentState.FAILED:
            await self._hold_previous(deployment)
            if deployment.retry_time is not None and deployment.retry_time <= datetime.now(UTC):
                await self._again(deployment, "it is tried again")
        elif task is None:
            await self._again(deployment, "the daemon started again")
        elif deployment.state is DeploymentState.CREATING:
            await self._again(deployment, "its start was interrupted")
        else:
            target = await self._store.run(target_of_deployment, self._store, deployment)
            if not self._workers.serves(target.base):
                await self._again(deployment, "its worker died")

    async def _again(self, deployment: Deployment, why: str) -> None:
        self._activate(await self._set(deployment, DeploymentState.CREATING, why))

    async def _free(self, deployment: Deployment) -> None:
        """Free what a DELETING deployment held and forget it; one task, whoever waits for it."""
        task = self._frees.get(deployment.id)
        if task is None:
            task = asyncio.create_task(self._give_back(deployment), name=f"fw-free-{deployment.id}")
            self._frees[deployment.id] = task
            task.add_done_callback(lambda _: self._frees.pop(deployment.id, None))
        await asyncio.shield(task)

    async def _give_back(self, deployment: Deployment) -> None:
        self._workers.unpin(deployment.id)
        self._workers.unpin(_previous_owner(deployment))
        for held in filter(None, (deployment, deployment.previous)):
            await self._release(held)
        with suppress(FwError):
            await self._store.run(self._store.deployments.discard, deployment.id, _is_deleting)

    async def _release(self, deployment: Deployment) -> None:
        """End or unload what served a deployment, unless something else needs it."""
        try:
            target = await self._store.run(target_of_deployment, self._store, deployment)
        except FwError as error:
            log.warning("deployment %s: nothing to free: %s", deployment.id, error.message)
        else:
            await self._workers.release_base(target.base, target.adapter)

    async def _set(
        self, deployment: Deployment, state: DeploymentState, message: str, *, code: str = "OK", **fields: Any
    ) -> Deployment:
        """Record what was found out about a deployment as it was when it was read."""
        status = StatusMessage(code=code.upper(), message=message)
        changes = {"state": state, "status": status, "retry_time": None, **fields}
        return await self._change(deployment, lambda old: old.model_copy(update=changes))

    async def _change(self, seen: Deployment, change: Callable[[Deployment], Deployment]) -> Deployment:
        """Change a deployment unless it was changed since it was seen, which raises ``Superseded``."""

        def checked(old: Deployment) -> Deployment:
            if old.update_time != seen.update_time:
                raise Superseded(old.id)
            return change(old)

        return await self._store.run(self._store.deployments.update, seen.id, checked)


def _previous_owner(deployment: Deployment) -> str:
    """Under which name the worker of what a deployment replaces is pinned."""
    return f"{deployment.id}/previous"


def _passed(deployment: Deployment) -> bool:
    """Whether a deployment has ever answered its probe."""
    return deployment.probe_latency_s is not None


def _is_deleting(deployment: Deployment) -> bool:
    return deployment.state is DeploymentState.DELETING


def _deleting(deployment: Deployment) -> Deployment:
    return deployment.model_copy(update={"state": DeploymentState.DELETING, "status": None, "retry_time": None})


def _replacing(old: Deployment, wanted: Deployment) -> Deployment:
    """A deployment in place of another: the last of them that has passed its probe answers until this one has."""
    if old.state is DeploymentState.DELETING:
        raise FwError("failed_precondition", f"Deployment '{old.id}' is being stopped.", hint="try again in a moment")
    serves = old.state is not DeploymentState.FAILED and _passed(old)
    kept = old.model_copy(update={"previous": None, "retry_time": None}) if serves else old.previous
    return wanted.model_copy(update={"create_time": old.create_time, "previous": kept})


def _restored(deployment: Deployment) -> Deployment:
    """What a deployment was about to replace: it is probed once more, and answers meanwhile."""
    previous = deployment.previous
    assert previous is not None
    status = StatusMessage(message="its replacement was withdrawn")
    fields = {"state": DeploymentState.CREATING, "status": status, "previous": previous}
    return previous.model_copy(update=fields)


def _not_serving(deployment: Deployment) -> FwError:
    reason = deployment.status.message if deployment.status else ""
    mends = deployment.retry_time is not None
    return FwError(
        "unavailable" if mends else "failed_precondition",
        f"Deployment '{deployment.id}' is {deployment.state}" + (f": {reason}" if reason else "."),
        not_done="no tokens were generated",
        hint="wait until it is tried again"
        if mends
        else "deploy the model again, or ask for the model itself by its own id",
        param="model",
    )


def _same(existing: Deployment, wanted: Deployment) -> bool:
    fields = ("display_name", "base_model", "model_digest", "comparison", "gate", "forced")
    return all(getattr(existing, field) == getattr(wanted, field) for field in fields)


def _difference(evaluated: ServedConfiguration | None, facts: WorkerFacts) -> str:
    """How serving differs from what was scored, in words; empty if it does not."""
    if evaluated is None:
        return ""
    pairs = {
        "base weights": (evaluated.base_digest, facts.model_digest),
        "dtype": (evaluated.dtype, facts.dtype),
        "numerics": (evaluated.numerics, facts.numerics),
        "chat template": (evaluated.template_digest, facts.template_digest),
    }
    return ", ".join(f"{name} {now} instead of {then}" for name, (then, now) in pairs.items() if then != now)

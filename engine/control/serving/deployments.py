"""Deployments: a model under a stable name, behind a gate, READY only after its worker answered a probe."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from engine.control.evidence import gates
from engine.control.inventory.resolution import named_model
from engine.control.jobs.creation import id_from_key
from engine.control.serving.probe import probe
from engine.control.serving.targets import Target, target_of_deployment, target_of_model
from engine.control.serving.worker_process import WorkerFacts
from engine.control.serving.workers import Workers
from engine.control.store import Store
from fw_sdk.types import (
    Comparison,
    CreateDeployment,
    Deployment,
    DeploymentState,
    FwError,
    Gate,
    ServedConfiguration,
    StatusMessage,
    resource_id,
    resource_name,
)

log = logging.getLogger("fw.deployments")

SETTLE_POLL_S = 0.05
WATCH_S = 0.5


class Deployments:
    """Every deployment of this daemon. All methods run on the app's event loop.

    A deployment is CREATING while its worker starts and is probed, then READY or FAILED. When its worker dies, or the
    daemon starts again, it goes through the same door once more.
    """

    def __init__(self, store: Store, workers: Workers, base_url: str) -> None:
        self._store = store
        self._workers = workers
        self._url = f"{base_url.rstrip('/')}/v1"
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bring what an earlier daemon served back, finish what it was stopping, then watch."""
        for deployment in self._all():
            if deployment.state is DeploymentState.DELETING:
                await self._free(deployment)
            elif deployment.state in (DeploymentState.CREATING, DeploymentState.READY):
                self._activate(self._set(deployment.id, DeploymentState.CREATING, "the daemon started again"))
        self._watcher = asyncio.create_task(self._watch(), name="fw-deployments")

    async def stop(self, *, keep_processes: bool) -> None:
        """End the background tasks; the workers are not ours to stop."""
        tasks = [*self._tasks.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def create(self, request: CreateDeployment, identifier: str | None = None, *, key: str | None = None) -> Deployment:
        """Store a deployment as CREATING and begin to bring it up; it replaces what the same id served before.

        Without an id, the idempotency ``key`` gives one.

        An equal request for the same id returns what exists, and tries again if that had failed.

        Raises:
            FwError: ``gate_not_met`` unless the gate holds or it is forced; ``not_found``; ``failed_precondition``.
        """
        model = named_model(self._store, request.base_model)
        target = target_of_model(self._store, model)
        comparison = self._comparison(request.comparison)
        if not request.force:
            self._pass_gate(request.gate, comparison, target)
        if identifier:
            identifier = resource_id(identifier, "deployments")
        else:
            stem = f"d-{model.id}"
            identifier = id_from_key(stem, key) if key else self._store.next_id(stem)
        wanted = Deployment(
            name=resource_name("deployments", identifier),
            display_name=request.display_name,
            base_model=model.name,
            model_digest=target.digest,
            comparison=comparison.name if comparison else None,
            gate=request.gate,
            forced=request.force,
            sampling=gates.sampled(comparison, target.digest),
            url=self._url,
        )
        existing = self._store.deployments.find(identifier)
        if existing is None:
            existing = self._store.deployments.create(wanted, request=request)
        elif existing.state is DeploymentState.DELETING:
            raise FwError(
                "failed_precondition", f"Deployment '{identifier}' is being stopped.", hint="try again in a moment"
            )
        elif _same(existing, wanted) and existing.state is not DeploymentState.FAILED:
            return existing
        else:
            kept = {"create_time": existing.create_time}
            existing = self._store.deployments.update(identifier, lambda _: wanted.model_copy(update=kept))
        self._activate(existing)
        return existing

    async def delete(self, identifier: str) -> None:
        """Stop serving and free everything the deployment held; returns when it is gone."""
        deployment = self._set(identifier, DeploymentState.DELETING, "")
        task = self._tasks.pop(identifier, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._free(deployment)

    async def target(self, identifier: str) -> Target:
        """The weights behind a deployment, as soon as it is READY; an error if it failed or is being stopped."""
        while True:
            deployment = self._store.deployments.get(identifier)
            if deployment.state is DeploymentState.READY:
                return target_of_deployment(self._store, deployment)
            if deployment.state is not DeploymentState.CREATING:
                reason = deployment.status.message if deployment.status else ""
                raise FwError(
                    "failed_precondition",
                    f"Deployment '{identifier}' is {deployment.state}" + (f": {reason}" if reason else "."),
                    not_done="no tokens were generated",
                    hint="deploy the model again, or ask for the model itself by its own id",
                    param="model",
                )
            await asyncio.sleep(SETTLE_POLL_S)

    def ready(self) -> list[Deployment]:
        """Deployments that answer now."""
        return [item for item in self._all() if item.state is DeploymentState.READY]

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

    async def _bring_up(self, deployment: Deployment) -> None:
        try:
            latency_s, remark = await self._probe(deployment)
        except FwError as error:
            log.warning("deployment %s failed: %s", deployment.id, error.message)
            self._workers.unpin(deployment.id)
            self._set(deployment.id, DeploymentState.FAILED, error.text(), code=error.code)
        except Exception as error:  # a bug of ours must not leave the deployment CREATING for ever
            self._set(deployment.id, DeploymentState.FAILED, f"{type(error).__name__}: {error}", code="internal")
            raise
        else:
            self._set(deployment.id, DeploymentState.READY, remark, latency_s=latency_s)

    async def _probe(self, deployment: Deployment) -> tuple[float, str]:
        """Start what serves the deployment and ask it something. Returns the answer's seconds and what to remark."""
        target = target_of_deployment(self._store, deployment)
        self._workers.pin(deployment.id, target.base, target.adapter)
        started = time.monotonic()
        with await self._workers.acquire(target.base, target.adapter) as lease:
            evaluated = gates.evaluated(self._comparison(deployment.comparison))
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
        return result.latency_s, difference if result.differs_from_base else "the adapter changes nothing"

    async def _watch(self) -> None:
        """Bring deployments back whose worker died."""
        while True:
            await asyncio.sleep(WATCH_S)
            for deployment in self.ready():
                with suppress(FwError):
                    if not self._workers.serves(target_of_deployment(self._store, deployment).base):
                        self._activate(self._set(deployment.id, DeploymentState.CREATING, "its worker died"))

    async def _free(self, deployment: Deployment) -> None:
        self._workers.unpin(deployment.id)
        try:
            target = target_of_deployment(self._store, deployment)
        except FwError as error:
            log.warning("deployment %s: nothing to free: %s", deployment.id, error.message)
        else:
            await self._workers.release_base(target.base, target.adapter)
        with suppress(FwError):
            self._store.deployments.delete(deployment.id)

    def _set(
        self,
        identifier: str,
        state: DeploymentState,
        message: str,
        *,
        code: str = "OK",
        latency_s: float | None = None,
    ) -> Deployment:
        changes = {
            "state": state,
            "status": StatusMessage(code=code.upper(), message=message),
            "probe_latency_s": latency_s,
            "update_time": datetime.now(UTC),
        }
        return self._store.deployments.update(identifier, lambda old: old.model_copy(update=changes))

    def _all(self) -> Sequence[Deployment]:
        found = [self._store.deployments.find(identifier) for identifier in self._store.deployments.ids()]
        return [deployment for deployment in found if deployment is not None]


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

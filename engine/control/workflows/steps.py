"""The steps of a pipeline: what each asks for, and how it is told that it is done. Asking twice changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from engine.control.evidence import comparisons, gates
from engine.control.inventory.references import require_unchanged
from engine.control.jobs.creation import create as create_job
from engine.control.kinds.evaluate import EVALUATE
from engine.control.kinds.finetune import FINETUNE
from engine.control.kinds.finetune import creation as finetunes
from engine.control.kinds.pipeline.plan import LABELS, Plan
from engine.control.machine import device
from engine.control.serving.context import ServingContext
from engine.control.workflows.check import check
from engine.control.workflows.report import best_comparison, outcome
from fw_sdk.types import (
    Comparison,
    DeploymentState,
    Device,
    Estimate,
    Evaluation,
    Failure,
    FwError,
    Job,
    JobState,
    Pipeline,
    Step,
    StepName,
    StepState,
    resource_id,
)

Handler = Callable[[Plan, Pipeline, Step], Awaitable[Step]]


SPARE_MEMORY = 2.0
"""How many times what a training is estimated to take must be free for idle workers to stay."""


class StepFailed(Exception):
    """A step's job failed; carries the job's own failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Steps:
    """Moves one step at a time. Runs on the app's event loop; slow work goes to a thread."""

    def __init__(self, services: ServingContext) -> None:
        self._services = services
        self._store = services.store
        self._since: dict[tuple[str, StepName], float] = {}
        self._handlers: dict[StepName, Handler] = {
            StepName.CHECK: self._check,
            StepName.BASELINE: self._evaluate,
            StepName.FEW_SHOT: self._evaluate,
            StepName.FINETUNE: self._finetune,
            StepName.EVALUATE: self._evaluate,
            StepName.COMPARE: self._compare,
            StepName.DEPLOY: self._deploy,
        }

    async def advance(self, pipeline: Pipeline, step: Step) -> Step:
        """The step as it is after one look: RUNNING, DONE or SKIPPED.

        Raises:
            StepFailed: its job failed.
            FwError: it could not be done.
        """
        key = (pipeline.id, step.name)
        if step.state is StepState.PENDING:
            self._since[key] = time.monotonic()
        started = self._since.setdefault(key, time.monotonic())
        try:
            await asyncio.to_thread(require_unchanged, self._services, pipeline.uses)
            changed = await self._handlers[step.name](Plan.of(pipeline), pipeline, step)
        except (FwError, StepFailed):
            del self._since[key]
            raise
        if changed.state in (StepState.DONE, StepState.SKIPPED):
            del self._since[key]
            if changed.state is StepState.DONE and changed.seconds is None:
                changed = changed.model_copy(update={"seconds": time.monotonic() - started})
        return changed

    async def _check(self, plan: Plan, _pipeline: Pipeline, step: Step) -> Step:
        message = await asyncio.to_thread(check, self._services, plan)
        return _to(step, StepState.DONE, message)

    async def _evaluate(self, plan: Plan, _pipeline: Pipeline, step: Step) -> Step:
        label = LABELS[step.name]
        if step.state is StepState.PENDING:
            job = await asyncio.to_thread(create_job, self._services, EVALUATE, plan.evaluation(label))
            return self._begun(step, job)
        done = self._child(step)
        if done.state is not JobState.COMPLETED:
            return step
        assert isinstance(done, Evaluation) and done.summary is not None
        found = done.summary
        text = f"{found.mean:.3f} [{found.ci.low:.3f}, {found.ci.high:.3f}] over {found.n} rows"
        return _ended(step, done, text)

    async def _finetune(self, plan: Plan, _pipeline: Pipeline, step: Step) -> Step:
        if step.state is StepState.PENDING:
            request = plan.finetune()
            cost = await asyncio.to_thread(finetunes.estimate_cost, self._services, request)
            if not leaves_room(device(), cost):
                await self._services.workers.sweep(idle_s=0)
            job = await asyncio.to_thread(create_job, self._services, FINETUNE, request, plan.finetune_id)
            return self._begun(step, job)
        done = self._child(step)
        if done.state is not JobState.COMPLETED:
            return step
        result = done.result or {}
        text = f"{result['steps']} steps, loss {result['firstLoss']:.3f} to {result['finalLoss']:.3f}"
        return _ended(step, done, text)

    async def _compare(self, plan: Plan, _pipeline: Pipeline, step: Step) -> Step:
        made = [
            await asyncio.to_thread(comparisons.create, self._services, plan.comparison(label))
            for label in plan.baselines
        ]
        text = "; ".join(f"against {label}: {_delta(item)}" for label, item in zip(plan.baselines, made, strict=True))
        return _to(step, StepState.DONE, text)

    async def _deploy(self, plan: Plan, pipeline: Pipeline, step: Step) -> Step:
        if not plan.request.deploy:
            return _to(step, StepState.SKIPPED, "not wanted")
        if step.state is StepState.RUNNING:
            return self._deploying(plan, step)
        comparison = best_comparison(outcome(self._store, plan, pipeline.steps).baselines)
        assert comparison is not None, "the compare step is done"
        try:
            await self._services.deployments.create(plan.deployment(comparison.name), plan.deployment_id)
        except FwError as error:
            if error.code != "gate_not_met":
                raise
            return _to(step, StepState.SKIPPED, error.message)
        return _to(step, StepState.RUNNING, f"deploying as '{plan.deployment_id}'")

    def _deploying(self, plan: Plan, step: Step) -> Step:
        deployment = self._store.deployments.get(plan.deployment_id)
        if deployment.state is DeploymentState.READY:
            comparison = self._store.comparisons.get(resource_id(str(deployment.comparison), "comparisons"))
            how = "forced" if plan.request.force_deploy else f"the gate '{deployment.gate.kind}' holds"
            return _to(step, StepState.DONE, f"{how}: {gates.numbers(comparison)}")
        if deployment.state is DeploymentState.CREATING:
            return step
        reason = deployment.status.message if deployment.status else str(deployment.state)
        raise FwError("unavailable", f"Deployment '{deployment.id}' is {deployment.state}: {reason}", retryable=False)

    def _begun(self, step: Step, job: Job) -> Step:
        """The step with its job, which is resumed if an earlier try of this step left it failed or cancelled."""
        if job.state in (JobState.FAILED, JobState.CANCELLED):
            self._services.jobs.resume(job.id)
        return step.model_copy(update={"state": StepState.RUNNING, "job": job.id, "message": f"job '{job.id}'"})

    def _child(self, step: Step) -> Job:
        """The step's job while it runs or when it is done; raises its failure."""
        job = self._store.jobs.get(str(step.job))
        if job.state is JobState.FAILED and job.failure is not None:
            raise StepFailed(job.failure)
        if job.state is JobState.CANCELLED:
            raise FwError("cancelled", f"Job '{job.id}' was cancelled.", not_done=f"step '{step.name}' has no result")
        return job


def _delta(comparison: Comparison) -> str:
    ci = comparison.ci
    return f"{comparison.delta:+.3f} [{ci.low:+.3f}, {ci.high:+.3f}] {comparison.verdict}"


def _to(step: Step, state: StepState, message: str) -> Step:
    return step.model_copy(update={"state": state, "message": message})


def _ended(step: Step, job: Job, message: str) -> Step:
    seconds = None
    if job.start_time and job.completed_time:
        seconds = (job.completed_time - job.start_time).total_seconds()
    return step.model_copy(update={"state": StepState.DONE, "message": message, "seconds": seconds})


def leaves_room(machine: Device, training: Estimate) -> bool:
    """Whether idle workers may keep their memory beside a training; a GPU's is not known, so there not."""
    return machine.kind == "cpu" and SPARE_MEMORY * training.peak_memory_bytes < machine.memory_available_bytes

"""The steps of a pipeline: what each asks for, and how it is told that it is done. Asking twice changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.control.evidence import comparisons, gates
from engine.control.inventory.references import require_unchanged
from engine.control.jobs.creation import create as create_job
from engine.control.kinds.evaluate import EVALUATE
from engine.control.kinds.finetune import FINETUNE
from engine.control.kinds.finetune import creation as finetunes
from engine.control.kinds.pipeline.plan import LABELS, TUNED, Plan
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


CHECK_S, COMPARE_S, DEPLOY_S = 1800.0, 600.0, 900.0
RETRIES, RETRY_PAUSE_S = 3, 1.0
SPARE_MEMORY = 2.0
"""How many times what a training is estimated to take must be free for idle workers to stay."""


@dataclass(frozen=True)
class Declared:
    """How a step is carried out.

    Attributes:
        handler: takes it one move further; asking twice changes nothing.
        timeout_s: a step that lasts longer fails. A job's own step has none: a silent job is terminated by its kind's.
        retries: how often what may mend by itself is tried again.
    """

    handler: Handler
    timeout_s: float | None = None
    retries: int = 0


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
        self._tries: Counter[tuple[str, StepName]] = Counter()
        evaluate = Declared(self._evaluate, retries=RETRIES)
        self.declared: dict[StepName, Declared] = {
            StepName.CHECK: Declared(self._check, timeout_s=CHECK_S, retries=RETRIES),
            StepName.BASELINE: evaluate,
            StepName.FEW_SHOT: evaluate,
            StepName.FINETUNE: Declared(self._finetune, retries=RETRIES),
            StepName.EVALUATE: evaluate,
            StepName.COMPARE: Declared(self._compare, timeout_s=COMPARE_S, retries=RETRIES),
            StepName.DEPLOY: Declared(self._deploy, timeout_s=DEPLOY_S, retries=RETRIES),
        }

    async def advance(self, pipeline: Pipeline, step: Step) -> Step:
        """The step as it is after one look: RUNNING, DONE or SKIPPED.

        Raises:
            StepFailed: its job failed.
            FwError: it could not be done.
        """
        key = (pipeline.id, step.name)
        if step.state is StepState.PENDING and not self._tries[key]:
            self._since[key] = time.monotonic()
        started = self._since.setdefault(key, time.monotonic())
        try:
            changed = await self._within(self.declared[step.name], pipeline, step, started)
        except (FwError, StepFailed) as error:
            if isinstance(error, FwError) and await self._again(key, error):
                return step.model_copy(update={"message": f"tried again after: {error.message}"})
            self._forget(key)
            raise
        if changed.state in (StepState.DONE, StepState.SKIPPED):
            self._forget(key)
            if changed.state is StepState.DONE and changed.seconds is None:
                changed = changed.model_copy(update={"seconds": time.monotonic() - started})
        return changed

    async def _within(self, declared: Declared, pipeline: Pipeline, step: Step, started: float) -> Step:
        """One move of a step, within what is left of its time."""
        left_s = None if declared.timeout_s is None else declared.timeout_s - (time.monotonic() - started)
        try:
            async with asyncio.timeout(left_s):
                await self._store.run(require_unchanged, self._services, pipeline.uses)
                return await declared.handler(Plan.of(pipeline), pipeline, step)
        except TimeoutError:
            raise FwError(
                "deadline_exceeded",
                f"Step '{step.name}' took longer than {declared.timeout_s:g} s.",
                not_done="the steps behind it were not begun",
                hint="the daemon's log says what it waited for",
                retryable=False,
            ) from None

    async def _again(self, key: tuple[str, StepName], error: FwError) -> bool:
        """Whether a step is tried again after this error; waits a little first."""
        if not error.retryable or self._tries[key] >= self.declared[key[1]].retries:
            return False
        self._tries[key] += 1
        await asyncio.sleep(RETRY_PAUSE_S * self._tries[key])
        return True

    def _forget(self, key: tuple[str, StepName]) -> None:
        self._since.pop(key, None)
        self._tries.pop(key, None)

    async def _check(self, plan: Plan, _pipeline: Pipeline, step: Step) -> Step:
        message = await asyncio.to_thread(check, self._services, plan)
        return _to(step, StepState.DONE, message)

    async def _evaluate(self, plan: Plan, _pipeline: Pipeline, step: Step) -> Step:
        label = LABELS[step.name]
        if step.state is StepState.PENDING:
            job = await asyncio.to_thread(create_job, self._services, EVALUATE, plan.evaluation(label))
            return await self._store.run(self._begun, step, job)
        done = await self._store.run(self._child, step)
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
            return await self._store.run(self._begun, step, job)
        done = await self._store.run(self._child, step)
        if done.state is not JobState.COMPLETED:
            return step
        result = done.result or {}
        text = f"{result['steps']} steps, loss {result['firstLoss']:.3f} to {result['finalLoss']:.3f}"
        return _ended(step, done, text)

    async def _compare(self, plan: Plan, _pipeline: Pipeline, step: Step) -> Step:
        made = await asyncio.to_thread(self._compared, plan)
        text = "; ".join(f"against {label}: {_delta(item)}" for label, item in zip(plan.baselines, made, strict=True))
        return _to(step, StepState.DONE, text)

    def _compared(self, plan: Plan) -> list[Comparison]:
        """The comparison with each baseline: of the evaluations that this plan asks for, not of others of their names.

        Clients may delete evaluations and comparisons, and use their names again, before a pipeline is resumed.
        """
        for label in (*plan.baselines, TUNED):
            if not _first_version(self._store.jobs.find(plan.evaluation_id(label))):
                create_job(self._services, EVALUATE, plan.evaluation(label))
        return [comparisons.create(self._services, plan.comparison(label)) for label in plan.baselines]

    async def _deploy(self, plan: Plan, pipeline: Pipeline, step: Step) -> Step:
        if not plan.request.deploy:
            return _to(step, StepState.SKIPPED, "not wanted")
        if step.state is StepState.RUNNING:
            return await self._store.run(self._deploying, plan, step)
        await asyncio.to_thread(self._compared, plan)
        found = await self._store.run(outcome, self._store, plan, pipeline.steps)
        comparison = best_comparison(found.baselines)
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
            how = (
                "forced, whatever the gate says"
                if plan.request.force_deploy
                else f"the gate '{deployment.gate.kind}' holds"
            )
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


def _first_version(job: Job | None) -> bool:
    """Whether the first version scored it, which kept no digest of what its requests were about."""
    configuration = job.configuration if isinstance(job, Evaluation) else None
    return configuration is not None and configuration.serving_digest is None


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

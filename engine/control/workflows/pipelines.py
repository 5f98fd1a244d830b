"""Pipelines: the whole loop as one object in the store, carried from step to step by a task of the daemon.

Every step asks for things by names that follow from the pipeline's id, and asking again for what exists changes
nothing. So a daemon that dies anywhere leaves a pipeline that the next one takes up where it was.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from engine.control.inventory.references import pinned
from engine.control.jobs.outcome import failure_of
from engine.control.kinds.pipeline.plan import Plan, current_step, with_step
from engine.control.serving.context import ServingContext
from engine.control.supervision import AsyncLoop
from engine.control.workflows.report import Forwarder, event, outcome, progress, progress_event
from engine.control.workflows.steps import StepFailed, Steps
from fw_sdk.types import (
    Failure,
    FwError,
    Job,
    JobKind,
    JobState,
    Pipeline,
    Step,
    StepName,
    StepState,
)

log = logging.getLogger("fw.pipelines")

TICK_S = 0.4
LEASE_S = 30.0
KINDS = (JobKind.PIPELINE,)


class Pipelines:
    """Carries every pipeline of this daemon forward, on the app's event loop."""

    def __init__(self, services: ServingContext) -> None:
        self._services = services
        self._steps = Steps(services)
        self._forwarder = Forwarder(services.store)
        self._running: dict[str, asyncio.Task[None]] = {}
        self.loop = AsyncLoop("pipelines", TICK_S)
        services.jobs.register(JobKind.PIPELINE, cancel=self.cancel, resume=self.resume)

    async def start(self) -> None:
        """Take up the pipelines that an earlier daemon left, then keep looking for work."""
        await self._services.store.run(self._take_over)
        self.loop.start(self._tick)

    def _take_over(self) -> None:
        self._services.store.jobs.take_over(self._services.jobs.owner, LEASE_S, KINDS)

    async def stop(self, *, keep_processes: bool) -> None:
        """Stop advancing pipelines; they stay as they are in the store."""
        await self.loop.stop()
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def cancel(self, identifier: str) -> Pipeline:
        """Ask a pipeline to stop; the job of its current step is cancelled too. An ended one stays as it is."""
        return self._services.store.jobs.update(identifier, _cancelled, Pipeline)

    def resume(self, identifier: str) -> Pipeline:
        """Go on with a failed or cancelled pipeline at the step where it stopped."""
        return self._services.store.jobs.update(identifier, _resumed, Pipeline)

    async def _tick(self) -> None:
        for job in await self._services.store.run(self._claim):
            self._start_advancing(job.id)

    def _claim(self) -> list[Job]:
        """Every pipeline that is to be carried forward; those that waited are ours now."""
        jobs = self._services.store.jobs
        for job in jobs.in_states(JobState.PENDING, kinds=KINDS):
            jobs.claim(job.id, self._services.jobs.owner, LEASE_S)
        return jobs.in_states(JobState.RUNNING, JobState.CANCELLING, kinds=KINDS)

    def _start_advancing(self, identifier: str) -> None:
        task = self._running.get(identifier)
        if task is None or task.done():
            self._running[identifier] = asyncio.create_task(self._advance(identifier), name=f"fw-{identifier}")

    async def _advance(self, identifier: str) -> None:
        """Take a pipeline as far as it goes without waiting for another process."""
        with self.loop.part(f"pipeline {identifier}"):
            try:
                while await self._advance_once(await self._get(identifier)):
                    continue
            except FwError:
                raise
            except Exception as error:
                log.exception("pipeline %s", identifier)
                bug = FwError("internal", f"{type(error).__name__}: {error}", hint="the daemon's log has the traceback")
                pipeline = await self._get(identifier)
                step = current_step(pipeline.steps)
                await self._services.store.run(self._fail, pipeline, step, failure_of(bug, []))

    async def _get(self, identifier: str) -> Pipeline:
        return await self._services.store.run(self._services.store.jobs.get, identifier, Pipeline)

    async def _advance_once(self, pipeline: Pipeline) -> bool:
        """One move of a pipeline. Returns whether there may be another one at once."""
        if pipeline.state.ended:
            return False
        step = current_step(pipeline.steps)
        if pipeline.state is JobState.CANCELLING:
            await self._wind_down(pipeline, step)
            return False
        if step is None:
            await self._services.store.run(self._complete, pipeline)
            return False
        try:
            changed = await self._steps.advance(pipeline, step)
        except StepFailed as failed:
            await self._services.store.run(self._fail, pipeline, step, failed.failure)
            return False
        except FwError as error:
            failure = failure_of(error, error.details.get("logTail", []))
            await self._services.store.run(self._fail, pipeline, step, failure)
            return False
        if changed.state is not StepState.RUNNING or changed == step:
            await self._services.store.run(self._forward, pipeline, changed)
        if changed != step:
            await self._services.store.run(self._record, pipeline, changed)
        return changed.state in (StepState.DONE, StepState.SKIPPED)

    def _forward(self, pipeline: Pipeline, step: Step) -> None:
        child = self._services.store.jobs.find(step.job) if step.job else None
        if child is not None:
            self._forwarder.pass_on(pipeline, step, child)

    def _record(self, pipeline: Pipeline, step: Step) -> None:
        """Store a step's change with its event and all that follows from it, in one transaction."""
        steps = with_step(pipeline.steps, step)
        text = f"{step.name.value}: {step.message or step.state.value}"
        at = progress(steps, text)
        events = [_step_event(step, text), progress_event(at, step.name)]
        found = outcome(self._services.store, Plan.of(pipeline), steps)
        fields: dict[str, Any] = {"steps": steps, "progress": at, "outcome": found}
        if step.name is StepName.CHECK and step.state is StepState.DONE:
            fields["uses"] = pinned(self._services, pipeline.uses)
        self._change(pipeline, events, fields)

    def _complete(self, pipeline: Pipeline) -> None:
        result = outcome(self._services.store, Plan.of(pipeline), pipeline.steps)
        fields = {"state": JobState.COMPLETED, "outcome": result, "result": result.to_wire(), **_ended_now()}
        self._change(pipeline, [event("result", result.to_wire())], fields)

    def _fail(self, pipeline: Pipeline, step: Step | None, failure: Failure) -> None:
        """End a pipeline with its step's failure; what the steps before it made stays."""
        name = step.name.value if step else "end"
        hint = f"then {_how_to_go_on(pipeline, name)}"
        carried = failure.model_copy(
            update={
                "message": f"Step '{name}' failed: {failure.message}",
                "hint": f"{failure.hint}; {hint}" if failure.hint else hint.removeprefix("then "),
                "details": {**failure.details, "step": name, **({"job": step.job} if step and step.job else {})},
            }
        )
        steps, events = pipeline.steps, []
        if step is not None:
            failed = step.model_copy(update={"state": StepState.FAILED, "message": failure.message})
            steps = with_step(steps, failed)
            self._forward(pipeline, failed)
            events.append(_step_event(failed, f"{name}: {failure.message}"))
        result = outcome(self._services.store, Plan.of(pipeline), steps)
        fields = {"state": JobState.FAILED, "steps": steps, "failure": carried, "outcome": result, **_ended_now()}
        self._change(pipeline, events, fields)

    async def _wind_down(self, pipeline: Pipeline, step: Step | None) -> None:
        """Cancel the job of the current step, or its deployment; once that has ended the pipeline is cancelled."""
        child = await self._services.store.run(self._services.store.jobs.find, step.job) if step and step.job else None
        if child is not None and not child.state.ended:
            if child.state is not JobState.CANCELLING:
                await self._services.store.run(self._services.jobs.cancel, child.id)
            return
        if step is not None and step.name is StepName.DEPLOY:
            plan = Plan.of(pipeline)
            await self._services.deployments.withdraw(plan.deployment_id, plan.output_model)
        steps = pipeline.steps
        if step is not None:
            steps = with_step(steps, step.model_copy(update={"state": StepState.PENDING, "message": "cancelled"}))
        fields = {"state": JobState.CANCELLED, "steps": steps, **_ended_now()}
        await self._services.store.run(self._change, pipeline, [], fields)

    def _change(self, pipeline: Pipeline, events: list[Any], fields: dict[str, Any]) -> None:
        """Append events and change fields in one transaction; a cancellation in the meantime stands."""
        jobs = self._services.store.jobs
        jobs.record(pipeline.id, events, change=lambda now: now.model_copy(update=fields), kind=Pipeline)


def _step_event(step: Step, text: str) -> Any:
    data = {"text": text, "pipelineStep": step.name.value, "state": step.state.value}
    return event("message", data | ({"seconds": round(step.seconds, 3)} if step.seconds is not None else {}))


def _ended_now() -> dict[str, Any]:
    return {"completed_time": datetime.now(UTC)}


def _cancelled(pipeline: Pipeline) -> Pipeline:
    if pipeline.state is JobState.PENDING:
        return pipeline.model_copy(update={"state": JobState.CANCELLED, **_ended_now()})
    running = pipeline.state is JobState.RUNNING
    return pipeline.model_copy(update={"state": JobState.CANCELLING}) if running else pipeline


def _resumed(pipeline: Pipeline) -> Pipeline:
    if pipeline.state not in (JobState.FAILED, JobState.CANCELLED):
        word = pipeline.state.removeprefix("JOB_STATE_").lower()
        raise FwError(
            "failed_precondition",
            f"Pipeline '{pipeline.id}' is {word}; only failed and cancelled pipelines are resumed.",
            not_done="nothing was changed",
        )
    again = [
        step.model_copy(update={"state": StepState.PENDING, "message": ""}) if step.state is StepState.FAILED else step
        for step in pipeline.steps
    ]
    fields: dict[str, Any] = {"state": JobState.PENDING, "attempt": pipeline.attempt + 1, "steps": again}
    return pipeline.model_copy(update={**fields, "failure": None, "completed_time": None})


def _how_to_go_on(pipeline: Pipeline, step: str) -> str:
    """Stored rows never change, so what the check refuses is started again with others rather than resumed."""
    if step == StepName.CHECK.value:
        return "start again: nothing was spent"
    return f"resume pipeline '{pipeline.id}': its finished steps are kept"

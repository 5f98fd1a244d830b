"""What a pipeline tells: its outcome from stored facts, its progress, and its children's events in its own record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.control.kinds.pipeline.plan import LABELS, TUNED, Plan
from engine.control.store import ProgramEvent, Store
from fw_sdk.types import (
    BaselineResult,
    Comparison,
    Evaluation,
    Job,
    JobEvent,
    Pipeline,
    PipelineResult,
    Progress,
    ScoreSummary,
    Step,
    StepName,
    StepState,
)

PROGRESS_EVERY_S = 1.0
FORWARDED = ("metric", "message", "warning")
PAGE = 1000


def outcome(store: Store, plan: Plan, steps: Sequence[Step]) -> PipelineResult:
    """What the loop has come to so far, from the jobs and comparisons that exist."""
    states = {step.name: step for step in steps}
    labels = {label: plan.evaluation_id(label) for name, label in LABELS.items() if _done(states[name])}
    baselines = [_baseline(store, plan, label) for label in plan.baselines if label in labels]
    deploy = states[StepName.DEPLOY]
    return PipelineResult(
        model=plan.request.base_model,
        adapter=plan.output_model if _done(states[StepName.FINETUNE]) else None,
        deployment=plan.deployment_id if _done(deploy) else None,
        evaluations=labels,
        comparison=best_comparison(baselines),
        baselines=baselines,
        tuned=_summary(store, plan.evaluation_id(TUNED)) if TUNED in labels else None,
        timings={step.name.value: round(step.seconds, 3) for step in steps if step.seconds is not None},
        loss=_loss(store, plan),
        deployed_because=deploy.message if deploy.state is StepState.DONE else "",
        not_deployed_because=deploy.message if deploy.state is StepState.SKIPPED else "",
    )


def best_comparison(baselines: Sequence[BaselineResult]) -> Comparison | None:
    """The comparison with the baseline that scored highest, or may have; the one that the gate looks at."""
    compared = [item.comparison for item in baselines if item.comparison is not None]
    return max(compared, key=lambda comparison: comparison.baseline_mean, default=None)


def progress(steps: Sequence[Step], message: str, eta_s: float | None = None) -> Progress:
    """Steps behind the pipeline, of all."""
    done = sum(step.state in (StepState.DONE, StepState.SKIPPED) for step in steps)
    return Progress(done=done, total=len(steps), unit="steps", message=message, eta_s=eta_s)


def child_message(step: Step, child: Job) -> str:
    """One line on where a step's job is, e.g. ``finetune: loss 0.21 40/78 steps (eta 60 s)``."""
    at = child.progress
    parts = [f"{step.name.value}:", at.message or child.state.removeprefix("JOB_STATE_").lower()]
    if at.total and f"{at.done}/{at.total}" not in at.message:
        parts.append(f"{at.done}/{at.total} {at.unit}")
    if at.eta_s is not None and not child.state.ended:
        parts.append(f"(eta {at.eta_s:.0f} s)")
    return " ".join(parts)


def event(kind: str, data: dict[str, Any]) -> ProgramEvent:
    """An event of the pipeline's own, now."""
    return ProgramEvent(datetime.now(UTC).isoformat(), kind, data)


def progress_event(at: Progress, step: StepName) -> ProgramEvent:
    """A ``progress`` event."""
    return event("progress", {**at.to_wire(), "pipelineStep": step.value})


@dataclass
class _Mark:
    """How far one child's record was passed on: its last ``seq``, and when its progress was last told."""

    seq: int
    told: float = 0.0
    text: str = ""


class Forwarder:
    """Passes children's events on into their pipeline's record, each once, progress at most once a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._marks: dict[str, _Mark] = {}

    def pass_on(self, pipeline: Pipeline, step: Step, child: Job) -> None:
        """Append what is new in ``child``'s record to ``pipeline``'s, and bring its progress up to date."""
        mark = self._marks.setdefault(child.id, _Mark(self._passed(pipeline.id, child.id)))
        fresh = self._fresh(child.id, mark.seq)
        events = [_forwarded(item, step, child) for item in fresh if item.type in FORWARDED]
        at = progress(pipeline.steps, child_message(step, child), child.progress.eta_s)
        tell = at.message != mark.text and time.monotonic() - mark.told >= PROGRESS_EVERY_S
        if tell:
            events.append(progress_event(at, step.name))
            mark.told, mark.text = time.monotonic(), at.message
        if events:
            self._store.jobs.record(pipeline.id, events, change=lambda now: now.model_copy(update={"progress": at}))
        if fresh:
            mark.seq = fresh[-1].seq

    def _fresh(self, child_id: str, after: int) -> list[JobEvent]:
        fresh: list[JobEvent] = []
        while page := self._store.jobs.events(child_id, after, PAGE):
            fresh += page
            after = page[-1].seq
        return fresh

    def _passed(self, pipeline_id: str, child_id: str) -> int:
        """The ``seq`` up to which an earlier daemon had passed ``child``'s events on."""
        last, after = 0, 0
        while page := self._store.jobs.events(pipeline_id, after, PAGE):
            last = max([last, *(item.data["jobSeq"] for item in page if item.data.get("job") == child_id)])
            after = page[-1].seq
        return last


def _forwarded(item: JobEvent, step: Step, child: Job) -> ProgramEvent:
    origin = {"pipelineStep": step.name.value, "job": child.id, "jobSeq": item.seq}
    return ProgramEvent(item.time.isoformat(), item.type, {**item.data, **origin})


def _done(step: Step) -> bool:
    return step.state is StepState.DONE


def _baseline(store: Store, plan: Plan, label: str) -> BaselineResult:
    identifier = plan.evaluation_id(label)
    comparison = store.comparisons.find(plan.comparison_id(label))
    return BaselineResult(
        label=label, evaluation=identifier, summary=_summary(store, identifier), comparison=comparison
    )


def _summary(store: Store, evaluation: str) -> ScoreSummary | None:
    found = store.jobs.find(evaluation)
    return found.summary if isinstance(found, Evaluation) else None


def _loss(store: Store, plan: Plan) -> list[tuple[int, float]]:
    found = store.jobs.find(plan.finetune_id)
    points = (found.result or {}).get("loss", []) if found is not None else []
    return [(int(step), float(loss)) for step, loss in points]

"""Wire objects as an agent reads them: short names, rounded numbers, the call that follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fw_mcp.results import untrusted
from fw_sdk.results import next_steps
from fw_sdk.results.actions import sentence
from fw_sdk.results.actions import short as short
from fw_sdk.results.caveats import outcome_caveats, score_warning
from fw_sdk.results.hints import AGENT, in_words_of
from fw_sdk.results.next_steps import Setting
from fw_sdk.results.report import min_score, report_on
from fw_sdk.results.spelling import tool_call
from fw_sdk.types import (
    BaselineResult,
    Comparison,
    ConstantAnswer,
    Dataset,
    DatasetReport,
    Deployment,
    Evaluation,
    ExtraDifference,
    ExtraMean,
    Failure,
    FineTuningJob,
    Job,
    JobState,
    OtherJob,
    OverlapPair,
    Pipeline,
    PipelineResult,
    RowProblem,
    ScoreSummary,
)

MAX_LOG_LINES = 12


def state(job: Job) -> str:
    """``running`` for ``JOB_STATE_RUNNING``."""
    return job.state.value.removeprefix("JOB_STATE_").lower()


def report_view(report: DatasetReport, full: bool = False) -> dict[str, Any]:
    """Counts and token statistics; of the problems only how many there are.

    A valid row has no error; one that repeats an earlier row is valid and counted as a duplicate besides.
    """
    imperfect = report.valid_rows != report.rows or report.duplicate_rows > 0
    return {
        "ok": report.ok,
        "rows": report.rows,
        "rows_with_errors": report.rows - report.valid_rows or None,
        "valid_rows": report.valid_rows if imperfect else None,
        "duplicates_among_valid": report.duplicate_rows if imperfect else None,
        "train_rows": report.train_rows,
        "heldout_rows": report.heldout_rows,
        "problems_found": len(report.problems) + report.problems_omitted or None,
        "tokens": report.tokens.model_dump(exclude=set() if full else {"histogram"}) if report.tokens else None,
    }


def same_problems(problems: Iterable[RowProblem]) -> list[list[RowProblem]]:
    """Problems with the same words together, in the order of their first lines."""
    found: dict[tuple[str, str, str], list[RowProblem]] = {}
    for problem in problems:
        found.setdefault((problem.severity, problem.code, problem.message), []).append(problem)
    return list(found.values())


def problem_view(problems: Sequence[RowProblem]) -> dict[str, Any]:
    """What is wrong with one line, and the other lines of which the same is true."""
    first, others = problems[0], [problem.line for problem in problems[1:]]
    message = untrusted(first.message, 300) if first.quotes else first.message
    view = {"line": first.line, "code": first.code, "severity": first.severity, "message": message}
    return {**view, "also_lines": others} if others else view


def lone_problem_view(problems: Sequence[RowProblem]) -> dict[str, Any]:
    """What is wrong with one line, and how that line begins."""
    beginning = problems[0].beginning
    return {**problem_view(problems), "row": untrusted(beginning) if beginning else None}


def pair_view(pair: OverlapPair) -> dict[str, Any]:
    """Lines that ask the same on both sides, what they ask, and whether they want the same answer."""
    view = {"line": pair.line, "other_line": pair.other_line, "also_other_lines": pair.also_other_lines or None}
    return {**view, "same_answer": pair.same_answer, "prompt": untrusted(pair.prompt)}


def dataset_view(dataset: Dataset) -> dict[str, Any]:
    """A stored dataset."""
    return {"id": dataset.id, "state": dataset.state.value, "digest": dataset.digest, "bytes": dataset.bytes}


def score_view(summary: ScoreSummary | None, full: bool = True) -> dict[str, Any] | None:
    """A mean with its interval and n; in full with what the evaluator returned besides."""
    if summary is None:
        return None
    return {
        "mean": summary.mean,
        "ci95": [summary.ci.low, summary.ci.high],
        "n": summary.n,
        "failed_rows": summary.failed_rows or None,
        "truncated_rows": summary.truncated_rows or None,
        "distinct_answers": summary.distinct_answers if full else None,
        "constant_answer": _constant_view(summary.constant) if full else None,
        "also": _extras(summary) if full else None,
    }


def _extras(summary: ScoreSummary) -> dict[str, Any] | None:
    return {name: _extra_view(found.mean, found) for name, found in summary.extra.items()} or None


def _constant_view(constant: ConstantAnswer | None) -> dict[str, Any] | None:
    if constant is None:
        return None
    return {"answer": untrusted(constant.answer, 200), "wanted_by": constant.share, "mean": constant.mean}


def _extra_view(value: float, found: ExtraMean | ExtraDifference) -> dict[str, Any]:
    key = "mean" if isinstance(found, ExtraMean) else "delta"
    return {key: value, "ci95": [found.ci.low, found.ci.high], "n": found.n}


def comparison_view(comparison: Comparison | None, full: bool = False) -> dict[str, Any] | None:
    """The numbers of a paired comparison and its verdict; in full with the tokens and seconds of both sides."""
    if comparison is None:
        return None
    also = {name: _extra_view(found.delta, found) for name, found in comparison.extra.items()}
    return {
        "id": comparison.id,
        "verdict": comparison.verdict.value,
        "baseline": {"evaluation": short(comparison.baseline), "mean": comparison.baseline_mean},
        "candidate": {"evaluation": short(comparison.candidate), "mean": comparison.candidate_mean},
        "delta": comparison.delta,
        "ci95": [comparison.ci.low, comparison.ci.high],
        "n": comparison.n,
        "wins": comparison.wins,
        "losses": comparison.losses,
        "ties": comparison.ties,
        "baseline_failed_rows": comparison.baseline_failed_rows or None,
        "candidate_failed_rows": comparison.candidate_failed_rows or None,
        "p_value": comparison.p_value,
        "rows_needed_in_all": comparison.rows_needed,
        "trained_on": comparison.trained_on or None,
        "cost": (comparison.cost or None) if full else None,
        "also": also or None if full else None,
    }


def failure_view(failure: Failure | None) -> dict[str, Any] | None:
    """Why a job failed, with the end of its log fenced."""
    if failure is None:
        return None
    tail = [line for line in failure.log_tail if failure.message not in line]
    return {
        "code": failure.code,
        "message": failure.message,
        "not_done": failure.not_done or None,
        "hint": in_words_of(AGENT, failure.hint) or None,
        "retryable": failure.retryable,
        "log_tail": untrusted("\n".join(tail[-MAX_LOG_LINES:])) if tail else None,
    }


def job_view(job: Job) -> dict[str, Any]:
    """Any job: state, progress, and why it failed if it did."""
    progress = job.progress
    said_by_outcome = isinstance(job, Pipeline) and job.state is JobState.COMPLETED
    return {
        "job_id": job.id,
        "kind": job.kind.value,
        "state": state(job),
        "progress": f"{progress.done}/{progress.total} {progress.unit}" if progress.total else None,
        "message": None if said_by_outcome else progress.message or None,
        "eta_s": progress.eta_s if not job.state.ended else None,
        "attempt": job.attempt if job.attempt > 1 else None,
        "failure": failure_view(job.failure),
    }


def view_of(job: Job, full: bool = False) -> dict[str, Any]:
    """A job with what its kind adds: steps and outcome, score, or the model that comes out.

    In full it has the steps of a pipeline that ended, their jobs and times, costs, and what the evaluator said besides.
    """
    if isinstance(job, Pipeline):
        steps = _steps(job, full)
        asked = min_score(job)
        goal = dict(zip(("asked", "reached", "met"), asked, strict=True)) if asked else None
        done = {"summary": report_on(job).headline} if job.state is JobState.COMPLETED else {}
        return {**job_view(job), **done, "steps": steps, "min_score": goal, "outcome": outcome_view(job.outcome, full)}
    if isinstance(job, Evaluation):
        view = {**job_view(job), "model": short(job.model), "score": score_view(job.summary)}
        more = {
            "rows_of": short(job.input_dataset),
            "split": job.input_split.value,
            "examples_in_prompt": _examples_view(job),
            "seconds": job.seconds,
        }
        return {**view, "warning": score_warning(job.summary), "notes": job.notes, **(more if full else {})}
    if isinstance(job, FineTuningJob):
        view = {**job_view(job), "base_model": short(job.base_model), "model": short(job.output_model)}
        return {**view, "data": short(job.dataset), "training": job.training} if full else view
    if isinstance(job, OtherJob):
        return {**job_view(job), **(job.model_extra or {})}
    return job_view(job)


def _examples_view(evaluation: Evaluation) -> dict[str, Any] | None:
    shown = evaluation.configuration.few_shot if evaluation.configuration else None
    return {key: shown.get(key) for key in ("count", "dataset", "lines")} if shown else None


def _steps(pipeline: Pipeline, full: bool) -> dict[str, Any] | None:
    """Each step's state, with its job and its time in full; nothing when all of them are done, unless in full."""
    if full:
        return {
            step.name.value: {"state": step.state.value, "job_id": short(step.job), "seconds": step.seconds}
            for step in pipeline.steps
        }
    states = {step.name.value: step.state.value for step in pipeline.steps}
    return None if pipeline.state is JobState.COMPLETED and set(states.values()) == {"done"} else states


def outcome_view(outcome: PipelineResult | None, full: bool = False) -> dict[str, Any] | None:
    """What a pipeline came to: scores, comparison with the best baseline, model, deployment."""
    if outcome is None:
        return None
    tuned = score_view(outcome.tuned, full)
    if tuned is not None and outcome.tuned is not None:
        tuned["also"] = _extras(outcome.tuned)
    brief = {
        "base_model": short(outcome.model),
        "model": short(outcome.adapter),
        "deployment": short(outcome.deployment),
        "deployed_because": outcome.deployed_because or None,
        "not_deployed_because": outcome.not_deployed_because or None,
        "comparison": comparison_view(outcome.comparison, full),
        "tuned": tuned,
        "baselines": [_baseline_view(item, full) for item in outcome.baselines],
        "warning": ". ".join(outcome_caveats(outcome)) or None,
    }
    more = {
        "evaluations": {label: short(name) for label, name in outcome.evaluations.items()},
        "loss": [outcome.loss[0], outcome.loss[-1]] if outcome.loss else None,
        "seconds": outcome.timings or None,
    }
    return {**brief, **more} if full else brief


def _baseline_view(item: BaselineResult, full: bool) -> dict[str, Any]:
    comparison = item.comparison
    return {
        "label": item.label,
        "evaluation": short(item.evaluation),
        "score": score_view(item.summary, full),
        "delta_of_tuned": comparison.delta if comparison else None,
        "ci95": [comparison.ci.low, comparison.ci.high] if comparison else None,
        "verdict": comparison.verdict.value if comparison else None,
    }


def deployment_view(deployment: Deployment) -> dict[str, Any]:
    """A deployment and how to call it."""
    status = deployment.status
    return {
        "deployment": deployment.id,
        "state": deployment.state.value,
        "model": short(deployment.base_model),
        "gate": deployment.gate.kind.value,
        "forced": deployment.forced or None,
        "comparison": short(deployment.comparison),
        "url": deployment.url,
        "sampling": deployment.sampling or "temperature 1: no evaluation of these weights says how it was sampled",
        "probe_latency_s": deployment.probe_latency_s,
        "status": status.message if status and status.message else None,
    }


def after_job(job: Job) -> str:
    """The calls that follow a look at ``job``."""
    return sentence(next_steps.after_job(job), tool_call)


def after_comparison(comparison: Comparison, setting: Setting | None = None) -> str:
    """The calls that a verdict asks for."""
    return sentence(next_steps.after_comparison(comparison, setting), tool_call)


def after_deployment(deployment: Deployment) -> str:
    """The calls that follow a look at a deployment."""
    return sentence(next_steps.after_deployment(deployment), tool_call)

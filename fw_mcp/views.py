"""Wire objects as an agent reads them: short names, rounded numbers, the call that follows."""

from __future__ import annotations

from typing import Any

from fw_mcp.results import untrusted
from fw_sdk.types import (
    BaselineResult,
    Comparison,
    Dataset,
    DatasetReport,
    Deployment,
    DeploymentState,
    Evaluation,
    Failure,
    FineTuningJob,
    Job,
    JobState,
    Pipeline,
    PipelineResult,
    RowProblem,
    ScoreSummary,
    Verdict,
)

MAX_PROBLEMS = 20
MAX_LOG_LINES = 12


def short(name: str | None) -> str | None:
    """The id in a full resource name."""
    return name.rsplit("/", 1)[-1] if name else name


def state(job: Job) -> str:
    """``running`` for ``JOB_STATE_RUNNING``."""
    return job.state.value.removeprefix("JOB_STATE_").lower()


def report_view(report: DatasetReport) -> dict[str, Any]:
    """Counts, token statistics and the first problems by line."""
    shown = report.problems[:MAX_PROBLEMS]
    return {
        "ok": report.ok,
        "rows": report.rows,
        "valid_rows": report.valid_rows,
        "duplicate_rows": report.duplicate_rows,
        "train_rows": report.train_rows,
        "heldout_rows": report.heldout_rows,
        "tokens": report.tokens.model_dump(exclude={"histogram"}) if report.tokens else None,
        "problems": [_problem_view(problem) for problem in shown],
        "problems_not_shown": len(report.problems) - len(shown) + report.problems_omitted or None,
    }


def _problem_view(problem: RowProblem) -> dict[str, Any]:
    message = untrusted(problem.message, 300)
    return {"line": problem.line, "code": problem.code, "severity": problem.severity, "message": message}


def dataset_view(dataset: Dataset) -> dict[str, Any]:
    """A stored dataset."""
    return {"id": dataset.id, "state": dataset.state.value, "digest": dataset.digest, "bytes": dataset.bytes}


def score_view(summary: ScoreSummary | None) -> dict[str, Any] | None:
    """A mean with its interval and n."""
    if summary is None:
        return None
    return {
        "mean": summary.mean,
        "ci95": [summary.ci.low, summary.ci.high],
        "n": summary.n,
        "failed_rows": summary.failed_rows or None,
        "truncated_rows": summary.truncated_rows or None,
        "also": summary.extra or None,
    }


def comparison_view(comparison: Comparison | None) -> dict[str, Any] | None:
    """The numbers of a paired comparison and its verdict."""
    if comparison is None:
        return None
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
        "p_value": comparison.p_value,
        "rows_needed": comparison.rows_needed,
        "cost": comparison.cost or None,
    }


def failure_view(failure: Failure | None) -> dict[str, Any] | None:
    """Why a job failed, with the end of its log fenced."""
    if failure is None:
        return None
    return {
        "code": failure.code,
        "message": failure.message,
        "not_done": failure.not_done or None,
        "hint": failure.hint or None,
        "retryable": failure.retryable,
        "log_tail": untrusted("\n".join(failure.log_tail[-MAX_LOG_LINES:])) if failure.log_tail else None,
    }


def job_view(job: Job) -> dict[str, Any]:
    """Any job: state, progress, and why it failed if it did."""
    progress = job.progress
    return {
        "job_id": job.id,
        "kind": job.kind.value,
        "state": state(job),
        "progress": f"{progress.done}/{progress.total} {progress.unit}" if progress.total else None,
        "message": progress.message or None,
        "eta_s": progress.eta_s if not job.state.ended else None,
        "attempt": job.attempt if job.attempt > 1 else None,
        "failure": failure_view(job.failure),
    }


def view_of(job: Job) -> dict[str, Any]:
    """A job with what its kind adds: steps and outcome, score, or the model that comes out."""
    if isinstance(job, Pipeline):
        steps = {step.name.value: step.state.value for step in job.steps}
        return {**job_view(job), "steps": steps, "outcome": outcome_view(job.outcome)}
    if isinstance(job, Evaluation):
        return {**job_view(job), "model": short(job.model), "score": score_view(job.summary)}
    if isinstance(job, FineTuningJob):
        return {**job_view(job), "base_model": short(job.base_model), "model": short(job.output_model)}
    return job_view(job)


def outcome_view(outcome: PipelineResult | None) -> dict[str, Any] | None:
    """What a pipeline came to: scores, comparison with the best baseline, model, deployment."""
    if outcome is None:
        return None
    return {
        "base_model": short(outcome.model),
        "model": short(outcome.adapter),
        "deployment": short(outcome.deployment),
        "deployed_because": outcome.deployed_because or None,
        "comparison": comparison_view(outcome.comparison),
        "tuned": score_view(outcome.tuned),
        "baselines": [_baseline_view(item) for item in outcome.baselines],
        "loss": [outcome.loss[0], outcome.loss[-1]] if outcome.loss else None,
        "seconds": outcome.timings or None,
    }


def _baseline_view(item: BaselineResult) -> dict[str, Any]:
    comparison = item.comparison
    return {
        "label": item.label,
        "evaluation": short(item.evaluation),
        "score": score_view(item.summary),
        "delta_of_tuned": comparison.delta if comparison else None,
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
        "probe_latency_s": deployment.probe_latency_s,
        "status": status.message if status and status.message else None,
    }


def after_job(job: Job) -> str:
    """The call that follows a look at ``job``."""
    if not job.state.ended:
        return f"job_wait(job_id='{job.id}')"
    if isinstance(job, Pipeline):
        return _after_pipeline(job)
    if job.state is not JobState.COMPLETED:
        hint = job.failure.hint if job.failure else ""
        return hint or "the call that started it, with the same arguments, goes on"
    if isinstance(job, Evaluation):
        return f"job_get(job_id='{job.id}', view='samples') shows the worst answers; compare(...) with another model"
    if isinstance(job, FineTuningJob):
        return f"evaluate(model='{short(job.output_model)}', data=..., evaluator=...)"
    return "call again what needs the model, with the same arguments"


def _after_pipeline(pipeline: Pipeline) -> str:
    if pipeline.state is not JobState.COMPLETED or pipeline.outcome is None:
        again = "customize(...) again: the same arguments resume it, changed ones start anew"
        hint = pipeline.failure.hint if pipeline.failure else ""
        return f"{hint.rstrip('.')}; then {again}" if hint else again
    outcome = pipeline.outcome
    if outcome.deployment:
        return f"generate(model='{short(outcome.deployment)}', prompts=['...'])"
    if outcome.comparison is not None:
        return after_comparison(outcome.comparison)
    return f"generate(model='{short(outcome.adapter or outcome.model)}', prompts=['...'])"


def after_comparison(comparison: Comparison) -> str:
    """What a verdict asks for."""
    model = short(comparison.candidate_model) or "..."
    if comparison.verdict is Verdict.BETTER:
        return f"deploy(model='{model}', comparison='{comparison.id}')"
    if comparison.verdict is Verdict.WORSE:
        return "keep the baseline; change the data or the training, then customize(...)"
    if comparison.rows_needed:
        return (
            f"evaluate on about {comparison.rows_needed} rows to decide ({comparison.n} now): "
            "customize(heldout=<a larger file>), or customize(...) with more or better training rows"
        )
    return "customize(...) with more or better training rows; keep the baseline until a verdict is 'better'"


def after_deployment(deployment: Deployment) -> str:
    """What follows a look at a deployment."""
    if deployment.state is DeploymentState.READY:
        return f"generate(model='{deployment.id}', prompts=['...'])"
    if deployment.state is DeploymentState.CREATING:
        return f"deploy(model='{short(deployment.base_model)}', name='{deployment.id}') again shows when it is READY"
    return "overview()"

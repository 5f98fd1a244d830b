"""Wire objects as an agent reads them: short names, rounded numbers, the call that follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fw_mcp.results import untrusted
from fw_sdk.types import (
    BaselineResult,
    Comparison,
    ConstantAnswer,
    Dataset,
    DatasetReport,
    Deployment,
    DeploymentState,
    Evaluation,
    ExtraDifference,
    ExtraMean,
    Failure,
    FineTuningJob,
    Job,
    JobKind,
    JobState,
    OverlapPair,
    Pipeline,
    PipelineResult,
    RowProblem,
    ScoreSummary,
    Verdict,
)

MAX_LOG_LINES = 12
CUT_SHARE = 0.1
EVALUATOR_CODES = frozenset({"evaluator_failed", "evaluator_invalid"})
STARTED_BY = {
    JobKind.PIPELINE: "customize",
    JobKind.FINETUNE: "finetune",
    JobKind.EVALUATE: "evaluate",
    JobKind.PULL: "model_pull",
}


def short(name: str | None) -> str | None:
    """The id in a full resource name."""
    return name.rsplit("/", 1)[-1] if name else name


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
        "also": {name: _extra_view(found.mean, found) for name, found in summary.extra.items()} if full else None,
    }


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
        "rows_needed": comparison.rows_needed,
        "trained_on": comparison.trained_on or None,
        "cost": (comparison.cost or None) if full else None,
        "also": {name: _extra_view(found.delta, found) for name, found in comparison.extra.items()} if full else None,
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
        "hint": failure.hint or None,
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
        return {**job_view(job), "steps": steps, "outcome": outcome_view(job.outcome, full)}
    if isinstance(job, Evaluation):
        view = {**job_view(job), "model": short(job.model), "score": score_view(job.summary)}
        more = {
            "rows_of": short(job.input_dataset),
            "split": job.input_split.value,
            "examples_in_prompt": _examples_view(job),
            "seconds": job.seconds,
        }
        return {**view, "warning": score_warning(job.summary), **(more if full else {})}
    if isinstance(job, FineTuningJob):
        view = {**job_view(job), "base_model": short(job.base_model), "model": short(job.output_model)}
        return {**view, "data": short(job.dataset), "training": job.training} if full else view
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


def cut_warning(summary: ScoreSummary | None, *, beside: ScoreSummary | None = None) -> str | None:
    """What makes a score mean less than it says: answers that were cut, rows that could not be scored.

    Where the model scored ``beside`` it, which was trained on wanted answers, was never cut, those fit: then what was
    cut here was no wanted answer, and a higher limit would change nothing.
    """
    if summary is None:
        return None
    parts = []
    fits = beside is not None and not beside.truncated_rows
    if summary.truncated_rows > CUT_SHARE * summary.n and not fits:
        parts.append(
            f"{summary.truncated_rows} of {summary.n} answers reached max_tokens; raise it if wanted ones are as long"
        )
    if summary.failed_rows:
        parts.append(f"{summary.failed_rows} rows have no score and count as the lowest")
    return "; ".join(parts) or None


def same_warning(summary: ScoreSummary | None) -> str | None:
    """What speaks against a score although every answer was scored: it takes no reading of the question to reach it."""
    if summary is None:
        return None
    constant = summary.constant
    if constant is not None and summary.ci.low <= constant.mean:
        return (
            f"always giving the answer that most rows want ({constant.share:.0%}) would score {constant.mean:.3g}; "
            "this is not clearly above that"
        )
    if summary.distinct_answers == 1 and summary.n > 1:
        return f"all {summary.n} answers are the same"
    return None


def score_warning(summary: ScoreSummary | None) -> str | None:
    """All that makes a score mean less than it says."""
    return "; ".join(filter(None, (cut_warning(summary), same_warning(summary)))) or None


def outcome_view(outcome: PipelineResult | None, full: bool = False) -> dict[str, Any] | None:
    """What a pipeline came to: scores, comparison with the best baseline, model, deployment."""
    if outcome is None:
        return None
    brief = {
        "base_model": short(outcome.model),
        "model": short(outcome.adapter),
        "deployment": short(outcome.deployment),
        "deployed_because": outcome.deployed_because or None,
        "not_deployed_because": outcome.not_deployed_because or None,
        "comparison": comparison_view(outcome.comparison, full),
        "tuned": score_view(outcome.tuned, full),
        "baselines": [_baseline_view(item, full) for item in outcome.baselines],
        "warning": _warnings(outcome),
    }
    more = {
        "evaluations": {label: short(name) for label, name in outcome.evaluations.items()},
        "loss": [outcome.loss[0], outcome.loss[-1]] if outcome.loss else None,
        "seconds": outcome.timings or None,
    }
    return {**brief, **more} if full else brief


def _warnings(outcome: PipelineResult) -> str | None:
    """Each score's warning, under the label of what was scored; of baselines little is expected."""
    said = {"tuned": score_warning(outcome.tuned)}
    said |= {item.label: cut_warning(item.summary, beside=outcome.tuned) for item in outcome.baselines}
    return ". ".join(f"{label}: {words}" for label, words in said.items() if words) or None


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
        "sampling": deployment.sampling or None,
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
        return _after_end_without_result(job)
    if isinstance(job, Evaluation):
        return (
            f"compare(baseline=..., candidate='{job.id}'); or evaluate(..., few_shot=4): "
            f"what do examples in the prompt reach? job_get(job_id='{job.id}', view='samples') shows the worst answers"
        )
    if isinstance(job, FineTuningJob):
        return f"evaluate(model='{short(job.output_model)}', data=..., evaluator=...)"
    return "call again what needs the model, with the same arguments"


def _after_end_without_result(job: Job) -> str:
    """What makes a failed or cancelled job go on: its cause removed, and the call that started it."""
    again = f"{STARTED_BY.get(job.kind, 'the call that started it')}(...) with the same arguments goes on"
    failure = job.failure
    if failure is not None and failure.code in EVALUATOR_CODES and isinstance(job, Evaluation):
        data, scorer = short(job.input_dataset), short(job.evaluator)
        return (
            f"correct '{scorer}' until evaluator_check(evaluator=..., data='{data}') scores every row, "
            f"then evaluate(model='{short(job.model)}', data='{data}', evaluator=...)"
        )
    return f"{failure.hint.rstrip('.')}; then {again}" if failure is not None and failure.hint else again


def _after_pipeline(pipeline: Pipeline) -> str:
    if pipeline.state is not JobState.COMPLETED or pipeline.outcome is None:
        again = "customize(...) again: the same arguments resume it, changed ones start anew"
        hint = pipeline.failure.hint if pipeline.failure else ""
        return f"{hint.rstrip('.')}; then {again}" if hint else again
    outcome = pipeline.outcome
    if outcome.deployment:
        return _ask_tuned(short(outcome.deployment))
    if outcome.comparison is not None:
        wanted = (pipeline.request.get("gate") or {}).get("minScore")
        if wanted is not None and outcome.comparison.candidate_mean < wanted:
            samples = f"job_get(job_id='{pipeline.id}', view='samples') shows the worst answers"
            return f"{samples}; then customize(...) with more or better rows, or a lower min_score than {wanted:g}"
        following = after_comparison(outcome.comparison)
        if wanted is not None and following.startswith("deploy("):
            following = f"{following.removesuffix(')')}, min_score={wanted:g})"
        if pipeline.request.get("deploy") is False and following.startswith("deploy("):
            samples = f"job_get(job_id='{pipeline.id}', view='samples') shows the worst answers"
            return f"{samples}; it is not served, as asked: {following} would"
        return following
    return f"generate(model='{short(outcome.adapter or outcome.model)}', prompts=['...'])"


ENOUGH = 0.95
"""Of answers that are right or wrong: a baseline that is right so often leaves training little to win."""


def after_comparison(comparison: Comparison, served_as: str | None = None) -> str:
    """What a verdict asks for; ``served_as`` is the deployment that serves the baseline's model."""
    model = short(comparison.candidate_model) or "..."
    if comparison.trained_on:
        return (
            f"evaluate both on rows that were held out: '{model}' was trained on {comparison.trained_on} of these "
            f"{comparison.n}, which measures memory; no gate takes that"
        )
    if comparison.verdict is Verdict.INVALID:
        return mend_failing(comparison)
    if comparison.verdict is Verdict.BETTER:
        start = f"deploy(model='{model}', comparison='{comparison.id}'"
        if served_as is None:
            return f"{start})"
        return f"{start}, name='{served_as}', confirm='{served_as}') serves it in the place of the baseline"
    if comparison.p_value is not None and comparison.baseline_mean >= ENOUGH:
        return (
            f"generate(model='{short(comparison.baseline_model)}', prompts=['...']): the baseline has "
            f"{comparison.baseline_mean:.2f} of 1 with its prompt (few-shot: with the examples in it), so beyond it "
            "no training is needed, and only harder rows could show a better one"
        )
    if comparison.verdict is Verdict.WORSE:
        return "keep the baseline; change the data or the training, then customize(...)"
    if comparison.rows_needed:
        return (
            f"evaluate on about {comparison.rows_needed} rows to decide ({comparison.n} now): "
            "customize(heldout=<a larger file>), or customize(...) with more or better training rows"
        )
    return "customize(...) with more or better training rows; keep the baseline until a verdict is 'better'"


def mend_failing(comparison: Comparison) -> str:
    """What makes an invalid comparison valid: the side with more rows without a score first."""
    failed = {
        comparison.baseline: comparison.baseline_failed_rows,
        comparison.candidate: comparison.candidate_failed_rows,
    }
    side = short(max(failed, key=lambda name: failed[name]))
    return (
        f"job_get(job_id='{side}', view='samples') shows why rows have no score; mend that (evaluator, row or "
        "max_tokens), evaluate(...) both again, then compare(...)"
    )


def _ask_tuned(model: str | None) -> str:
    """The call that asks a model that was trained; it answers as it learned to only when it is asked as it was then."""
    return f"generate(model='{model}', prompts=['...']), and system='...' if the rows it learned from have one"


def after_deployment(deployment: Deployment) -> str:
    """What follows a look at a deployment."""
    if deployment.state is DeploymentState.READY:
        return _ask_tuned(deployment.id)
    if deployment.state is DeploymentState.CREATING:
        return f"deploy(model='{short(deployment.base_model)}', name='{deployment.id}') shows when it is READY"
    return "overview()"

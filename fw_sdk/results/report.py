"""One result as every surface says it: the verdict as a sentence, a table of scores, caveats, and the next steps."""

from __future__ import annotations

from dataclasses import dataclass

from fw_sdk.results.actions import Step, short
from fw_sdk.results.caveats import comparison_caveats, outcome_caveats, score_warning
from fw_sdk.results.next_steps import Setting, after_comparison, after_job, gate_of
from fw_sdk.types import (
    BaselineResult,
    Comparison,
    Evaluation,
    Interval,
    Job,
    JobState,
    Pipeline,
    PipelineResult,
    ScoreSummary,
    Verdict,
)

TUNED = "tuned"
MEANINGS = {
    Verdict.INCONCLUSIVE: " (these rows do not decide)",
    Verdict.INVALID: " (too many rows have no score)",
}
NAMES = {"few_shot": "few-shot"}
"""How people read a baseline's label."""


@dataclass(frozen=True)
class Line:
    """One row of the table: what was scored, and its mean with interval and n; ``best`` is what the rest must beat."""

    label: str
    score: ScoreSummary | None
    best: bool = False


@dataclass(frozen=True)
class Report:
    """What is to be said of a result.

    Attributes:
        headline: the verdict first, in one sentence.
        lines: scores, baselines first.
        facts: sentences that belong beside the table: wins and losses, the gate, the deployment, times.
        caveats: what makes the figures mean less than they say.
        steps: what to do next, the most useful first.
    """

    headline: str
    lines: tuple[Line, ...] = ()
    facts: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()


def report_on(pipeline: Pipeline) -> Report:
    """A pipeline, whether it completed, runs or failed."""
    outcome = pipeline.outcome
    steps = after_job(pipeline)
    if outcome is None or pipeline.state is not JobState.COMPLETED:
        lines = _lines(outcome) if outcome else ()
        return Report(_unfinished(pipeline), lines, _step_facts(pipeline), steps=steps)
    facts = (*_comparison_facts(outcome.comparison), *_gate_facts(pipeline, outcome), _served(outcome))
    timed = seconds(outcome.timings)
    return Report(
        headline=_outcome_headline(outcome),
        lines=_lines(outcome),
        facts=(*facts, f"seconds: {timed}") if timed else facts,
        caveats=tuple(outcome_caveats(outcome)),
        steps=steps,
    )


def report_on_comparison(comparison: Comparison, setting: Setting | None = None) -> Report:
    """Two evaluations of the same rows."""
    baseline, candidate = short(comparison.baseline_model), short(comparison.candidate_model)
    facts = (
        f"baseline: {baseline or '?'} scores {comparison.baseline_mean:.3f} ({short(comparison.baseline)})",
        f"candidate: {candidate or '?'} scores {comparison.candidate_mean:.3f} ({short(comparison.candidate)})",
        *_comparison_facts(comparison),
    )
    who = f"{candidate or 'the candidate'} against {baseline or 'the baseline'} on the same rows"
    headline = f"{comparison.verdict.value}: {who}, {difference(comparison)}"
    caveats = tuple(comparison_caveats(comparison))
    return Report(headline, (), facts, caveats, after_comparison(comparison, setting))


def report_on_evaluation(evaluation: Evaluation) -> Report:
    """One evaluation: its mean, and what speaks against it."""
    model, summary = short(evaluation.model) or "?", evaluation.summary
    if summary is None:
        return Report(_unfinished(evaluation), steps=after_job(evaluation))
    examples = evaluation.configuration.few_shot if evaluation.configuration else None
    prompted = f" with {examples.get('count')} examples in its prompt" if examples else ""
    rows = f"rows: {short(evaluation.input_dataset)}, split {evaluation.input_split.value}"
    facts = [f"{rows}; evaluator: {short(evaluation.evaluator)}; {evaluation.seconds:.1f} s"]
    facts += [f"{name}: {found.mean:.3f} {interval(found.ci)}, n={found.n}" for name, found in summary.extra.items()]
    warning = score_warning(summary)
    headline = f"{model}{prompted} scores {summary.mean:.3f}, 95 % interval {interval(summary.ci)}, n={summary.n}"
    caveats = (*((warning,) if warning else ()), *evaluation.notes)
    return Report(headline, (), tuple(facts), caveats, after_job(evaluation))


def difference(comparison: Comparison) -> str:
    """``+0.310, 95 % interval [+0.210, +0.410], n=100``."""
    ci = comparison.ci
    return f"{comparison.delta:+.3f}, {ci.level * 100:g} % interval [{ci.low:+.3f}, {ci.high:+.3f}], n={comparison.n}"


def interval(ci: Interval) -> str:
    """``[0.210, 0.410]``."""
    return f"[{ci.low:.3f}, {ci.high:.3f}]"


def label_of(item: BaselineResult) -> str:
    """A baseline's label as people read it."""
    return NAMES.get(item.label, item.label)


def min_score(pipeline: Pipeline) -> tuple[float, float, bool] | None:
    """(asked for, reached, whether that is met) where a pipeline's gate has a ``min_score`` and there is a score."""
    wanted = gate_of(pipeline.request).min_score
    comparison = pipeline.outcome.comparison if pipeline.outcome else None
    if wanted is None or comparison is None:
        return None
    return wanted, comparison.candidate_mean, comparison.candidate_mean >= wanted


def seconds(timings: dict[str, float]) -> str:
    """``baseline 12.1, finetune 60.2``."""
    return ", ".join(f"{name} {value:.1f}" for name, value in timings.items())


def _outcome_headline(outcome: PipelineResult) -> str:
    comparison, tuned = outcome.comparison, outcome.tuned
    if comparison is None:
        return f"completed: '{short(outcome.adapter or outcome.model)}' was made; nothing was compared"
    best = next((label_of(item) for item in outcome.baselines if item.comparison == comparison), "baseline")
    reached = f"the tuned model scores {tuned.mean:.3f}" if tuned else "the tuned model"
    means = MEANINGS.get(comparison.verdict, "")
    return (
        f"{comparison.verdict.value}{means}: {reached}, "
        f"{difference(comparison)}, against the best baseline ({best}, {comparison.baseline_mean:.3f})"
    )


def _lines(outcome: PipelineResult) -> tuple[Line, ...]:
    best = outcome.comparison
    lines = [Line(label_of(item), item.summary, item.comparison == best) for item in outcome.baselines]
    return (*lines, Line(TUNED, outcome.tuned)) if outcome.tuned else tuple(lines)


def _comparison_facts(comparison: Comparison | None) -> tuple[str, ...]:
    if comparison is None:
        return ()
    chance = f", p={comparison.p_value:.3g} (McNemar)" if comparison.p_value is not None else ""
    facts = [
        f"wins/losses/ties: {comparison.wins}/{comparison.losses}/{comparison.ties}{chance}; "
        f"comparison: {comparison.id}"
    ]
    failed = comparison.baseline_failed_rows, comparison.candidate_failed_rows
    if any(failed):
        facts.append(f"rows without a score: {failed[0]} of the baseline, {failed[1]} of the candidate")
    if comparison.rows_needed:
        facts.append(f"about {comparison.rows_needed} rows in all would decide it; there are {comparison.n} now")
    facts += [
        f"{name}: {found.delta:+.3f} [{found.ci.low:+.3f}, {found.ci.high:+.3f}], n={found.n}"
        for name, found in comparison.extra.items()
    ]
    return tuple(facts)


def _gate_facts(pipeline: Pipeline, outcome: PipelineResult) -> tuple[str, ...]:
    asked = min_score(pipeline)
    if asked is None:
        return ()
    wanted, reached, met = asked
    return (f"min_score: {wanted:g} was asked for, {reached:.3f} reached: {'met' if met else 'not met'}",)


def _served(outcome: PipelineResult) -> str:
    why = outcome.deployed_because or outcome.not_deployed_because
    because = f" ({why})" if why else ""
    return f"deployment: {short(outcome.deployment) or 'none'}{because}"


def _unfinished(job: Job) -> str:
    state = job.state.value.removeprefix("JOB_STATE_").lower()
    return f"{state}: {job.failure.message if job.failure else job.progress.message or job.id}"


def _step_facts(pipeline: Pipeline) -> tuple[str, ...]:
    return ("steps: " + ", ".join(f"{step.name.value} {step.state.value}" for step in pipeline.steps),)

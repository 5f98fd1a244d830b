"""What follows from a job, a verdict or a deployment, as steps that every surface spells in its own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fw_sdk.results.actions import OPEN, Placeholder, Step, act, again, go_on, instead, say, short
from fw_sdk.results.caveats import all_zero
from fw_sdk.types import (
    Comparison,
    Deployment,
    DeploymentState,
    Evaluation,
    FineTuningJob,
    Gate,
    GateKind,
    Job,
    JobState,
    Pipeline,
    PipelineResult,
    ScoreSummary,
    Split,
    Verdict,
)

EVALUATOR_CODES = frozenset({"evaluator_failed", "evaluator_invalid"})
ENOUGH = 0.95
"""Of answers that are right or wrong: a baseline that is right so often leaves training little to win."""

ANYHOW = "serves it all the same, which a person has to decide"

Steps = tuple[Step, ...]


@dataclass(frozen=True)
class Setting:
    """What surrounds a comparison and decides what follows from it.

    Attributes:
        gate: that the deployment would have to pass.
        name: of the deployment that would serve the candidate; by default the candidate's own.
        replaces: whether another model is served under that name now.
        served_as: the deployment that serves the candidate already.
        few_shot: how many examples the baseline had in its prompt.
    """

    gate: Gate = field(default_factory=Gate)
    name: str | None = None
    replaces: bool = False
    served_as: str | None = None
    few_shot: int = 0


def after_job(job: Job) -> Steps:
    """What follows a look at ``job``; the first step matters most."""
    if not job.state.ended:
        return (act("job_wait", job_id=job.id),)
    if isinstance(job, Pipeline):
        return _after_pipeline(job)
    if job.state is not JobState.COMPLETED:
        return _after_end_without_result(job)
    if isinstance(job, Evaluation):
        return _after_evaluation(job)
    if isinstance(job, FineTuningJob):
        return (act("evaluate", model=short(job.output_model), data=OPEN, evaluator=OPEN),)
    return (say("call again what needs the model, with the same arguments"),)


def _after_evaluation(job: Evaluation) -> Steps:
    steps = [act("compare", "pairs it with another evaluation of the same rows", baseline=OPEN, candidate=job.id)]
    examples = job.configuration.few_shot if job.configuration else None
    if not examples:
        shown = "shows what examples in the prompt reach without training"
        steps.append(instead(again("evaluate", shown, few_shot=4)))
    if not _perfect(job.summary):
        steps.append(instead(act("job_get", "shows the worst answers", job_id=job.id, view="samples")))
    return tuple(steps)


def _perfect(summary: ScoreSummary | None) -> bool:
    """Whether every answer is right, so that there is no worst one to look at."""
    return summary is not None and summary.binary and summary.mean == 1.0


def _after_end_without_result(job: Job) -> Steps:
    """What makes a failed or cancelled job go on: its cause removed, and the call that started it."""
    failure = job.failure
    if failure is not None and failure.code in EVALUATOR_CODES and isinstance(job, Evaluation):
        data, scorer = short(job.input_dataset), short(job.evaluator)
        return (
            say(f"correct '{scorer}'"),
            act("evaluator_check", "until it scores every row", evaluator=OPEN, data=data),
            act("evaluate", model=short(job.model), data=data, evaluator=OPEN, split=_split(job)),
        )
    return (*_hinted(job), go_on(job))


def _split(job: Evaluation) -> str | None:
    """The rows that were scored, where they are not the default ones."""
    return None if job.input_split is Split.HELDOUT else job.input_split.value


def _hinted(job: Job) -> Steps:
    """The failure's own hint as a step, if it has one."""
    hint = job.failure.hint.rstrip(".") if job.failure else ""
    return (say(hint),) if hint else ()


def _after_pipeline(pipeline: Pipeline) -> Steps:
    outcome = pipeline.outcome
    if pipeline.state is not JobState.COMPLETED or outcome is None:
        return (*_hinted(pipeline), go_on(pipeline))
    if outcome.deployment:
        ask = _ask_tuned(short(outcome.deployment))
        return (ask,) if _perfect(outcome.tuned) else (ask, instead(_worst_answers(pipeline, outcome)))
    if outcome.comparison is None:
        return (act("generate", model=short(outcome.adapter or outcome.model), prompts=["..."]),)
    setting = setting_of(pipeline, outcome)
    wanted = setting.gate.min_score
    if wanted is not None and outcome.comparison.candidate_mean < wanted:
        better = again("customize", f"with more or better rows, or with a lower min_score than {wanted:g}")
        return (_worst_answers(pipeline, outcome), better)
    following = after_comparison(outcome.comparison, setting)
    if pipeline.request.get("deploy") is False and outcome.comparison.verdict is Verdict.BETTER:
        return (_worst_answers(pipeline, outcome), say("it is not served, as asked"), *following)
    return following


def setting_of(pipeline: Pipeline, outcome: PipelineResult) -> Setting:
    """The gate, name and baseline of a pipeline's own comparison."""
    best = outcome.comparison
    label = next((item.label for item in outcome.baselines if best and _same(item.comparison, best)), "")
    examples = int(pipeline.request.get("fewShotCount") or 4) if label == "few_shot" else 0
    return Setting(
        gate=gate_of(pipeline.request), name=pipeline.request.get("deploymentId") or pipeline.id, few_shot=examples
    )


def _same(one: Comparison | None, other: Comparison) -> bool:
    return one is not None and one.name == other.name


def gate_of(request: Mapping[str, Any]) -> Gate:
    """The gate of a pipeline's request as it is stored; the default one if it names none."""
    return Gate.model_validate(request.get("gate") or {})


def _worst_answers(pipeline: Pipeline, outcome: PipelineResult) -> Step:
    scored = short(outcome.evaluations.get("tuned")) or pipeline.id
    return act("job_get", "shows the worst answers", job_id=scored, view="samples")


def setting_among(comparison: Comparison, deployments: Iterable[Deployment], few_shot: int = 0) -> Setting:
    """What is served of either side of a comparison, the newest deployment first."""
    serving = [item for item in deployments if item.state is DeploymentState.READY]
    by_model = {short(item.base_model): item.id for item in reversed(serving)}
    model, before = short(comparison.candidate_model), short(comparison.baseline_model)
    place = by_model.get(before) if before != model else None
    return Setting(name=place, replaces=place is not None, served_as=by_model.get(model), few_shot=few_shot)


def gate_arguments(gate: Gate) -> dict[str, Any]:
    """A gate as ``deploy`` takes it; nothing for the default one."""
    named: dict[str, Any] = {} if gate.kind is GateKind.BETTER else {"gate": gate.kind.value, "margin": gate.margin}
    return named | ({"min_score": gate.min_score} if gate.min_score is not None else {})


def deploy_step(comparison: Comparison, setting: Setting, says: str = "", *, force: bool = False) -> Step:
    """The deployment of a comparison's candidate, with everything that its gate needs."""
    model = short(comparison.candidate_model) or "..."
    name = setting.name or model
    how = {"force": True} if force else gate_arguments(setting.gate)
    confirm = name if setting.replaces else None
    return act("deploy", says, model=model, comparison=comparison.id, name=name, **how, confirm=confirm)


def after_comparison(comparison: Comparison, setting: Setting | None = None) -> Steps:
    """What a verdict asks for."""
    setting = setting or Setting()
    model = short(comparison.candidate_model) or "..."
    if comparison.trained_on:
        return (
            say(
                f"evaluate both on rows that were held out: '{model}' was trained on {comparison.trained_on} of these "
                f"{comparison.n}, which measures memory; no gate takes that"
            ),
        )
    if comparison.verdict is Verdict.INVALID:
        return repair(comparison)
    if not comparison.verified:
        return (say("evaluate both again and compare: this comparison holds no digests, and no gate accepts it"),)
    if setting.served_as is not None and comparison.verdict is Verdict.BETTER:
        return (_ask_tuned(setting.served_as),)
    if comparison.verdict is Verdict.BETTER and comparison.baseline_model == comparison.candidate_model:
        return _better_prompt(comparison)
    if comparison.verdict is Verdict.BETTER:
        return (deploy_step(comparison, setting, "serves it in the place of the baseline" if setting.replaces else ""),)
    if all_zero(comparison):
        return (
            act("job_get", "shows what was answered", job_id=short(comparison.candidate), view="samples"),
            say("correct the evaluator, raise max_tokens or train longer: neither model got a row right"),
        )
    if comparison.p_value is not None and comparison.baseline_mean >= ENOUGH:
        return _little_left(comparison, setting)
    anyhow = instead(deploy_step(comparison, setting, ANYHOW, force=True))
    if comparison.verdict is Verdict.WORSE:
        return say("keep the baseline"), again("customize", "with other data or training"), anyhow
    return (_decide(comparison), anyhow)


def repair(comparison: Comparison) -> Steps:
    """What makes an invalid comparison valid: the side with more rows without a score first."""
    failed = {
        comparison.baseline: comparison.baseline_failed_rows,
        comparison.candidate: comparison.candidate_failed_rows,
    }
    side = short(max(failed, key=lambda name: failed[name]))
    return (
        act("job_get", "shows why rows have no score", job_id=side, view="samples"),
        say("correct the evaluator, the rows or max_tokens"),
        again("evaluate", "for both"),
        again("compare"),
    )


def _better_prompt(comparison: Comparison) -> Steps:
    """Of one model that does better with another prompt there is nothing to deploy."""
    helps = f"what '{short(comparison.candidate)}' has in its prompt helps without any training: keep it there"
    return say(helps), again("customize", f"if {comparison.candidate_mean:.3g} is not enough; it has to beat that too")


def _little_left(comparison: Comparison, setting: Setting) -> Steps:
    examples = f", with {setting.few_shot} examples in its prompt," if setting.few_shot else ""
    reached = f"the baseline{examples} has {comparison.baseline_mean:.2f} of 1, which leaves training little to win"
    ask = act("generate", "asks it", model=short(comparison.baseline_model), prompts=["..."])
    if setting.few_shot:
        shown = "shows its examples: put them before each question"
        ask = act("job_get", shown, job_id=short(comparison.baseline), detail="full")
    return (ask, say(f"{reached}; only harder rows could show a better one"))


def _decide(comparison: Comparison) -> Step:
    if comparison.rows_needed:
        rows = Placeholder(f"a file with about {comparison.rows_needed} rows")
        why = f"would decide it ({comparison.n} rows now), or more or better training rows"
        return again("customize", why, heldout=rows)
    return again("customize", "with more or better training rows; keep the baseline until a verdict is 'better'")


def _ask_tuned(model: str | None) -> Step:
    """The call that asks a model that was trained; it answers as it learned to only when it is asked as it was then."""
    return act("generate", "and the system message that its training rows have, if any", model=model, prompts=["..."])


def after_deployment(deployment: Deployment) -> Steps:
    """What follows a look at a deployment."""
    if deployment.state is DeploymentState.READY:
        return (_ask_tuned(deployment.id),)
    if deployment.state is DeploymentState.CREATING:
        model = short(deployment.base_model)
        return (act("deploy", "shows when it is READY", model=model, name=deployment.id),)
    return (act("overview"),)

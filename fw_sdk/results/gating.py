"""Deploying on evidence: whether the gate can hold at all, what would make it hold, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fw_sdk.results.actions import OPEN, EvaluationOf, Placeholder, Step, act, again, instead, short
from fw_sdk.results.next_steps import ANYHOW, Setting, Steps, deploy_step, gate_arguments, repair
from fw_sdk.types import Comparison, Deployment, Gate, GateKind, Verdict


@dataclass(frozen=True)
class Wanted:
    """What is to be served, as the caller said it, in ids."""

    model: str
    name: str
    comparison: str | None
    gate: Gate
    force: bool

    @property
    def explicit(self) -> bool:
        """Whether the caller named what the decision rests on."""
        return self.force or self.comparison is not None


def is_hopeless(wanted: Wanted, evidence: Comparison | None) -> bool:
    """Whether the gate will refuse anyhow, so that confirming would be in vain."""
    if evidence is None or wanted.force:
        return False
    if evidence.trained_on or short(evidence.candidate_model) != wanted.model or evidence.verdict is Verdict.INVALID:
        return True
    below = wanted.gate.min_score is not None and evidence.candidate_mean < wanted.gate.min_score
    return below or (wanted.gate.kind is GateKind.BETTER and evidence.verdict is not Verdict.BETTER)


def deploy_again(
    wanted: Wanted, evidence: Comparison | None, says: str = "", *, force: bool = False, replaces: bool
) -> Step:
    """The same deployment with its gate, ready to be asked for; with ``force`` whatever the gate says."""
    force = force or wanted.force
    if evidence is not None and not wanted.force:
        setting = Setting(gate=wanted.gate, name=wanted.name, replaces=replaces)
        named = evidence.model_copy(update={"candidate_model": wanted.model})
        return deploy_step(named, setting, says, force=force)
    how = {"force": True} if force else gate_arguments(wanted.gate)
    confirm = wanted.name if replaces else None
    return act("deploy", says, model=wanted.model, name=wanted.name, **how, confirm=confirm)


def after_refusal(wanted: Wanted, evidence: Comparison | None, *, replaces: bool) -> Steps:
    """What would make the gate hold, and how to serve the model all the same."""
    anyhow = deploy_again(wanted, None, ANYHOW, force=True, replaces=replaces)
    return (*towards_the_gate(wanted, evidence), instead(anyhow))


def towards_the_gate(wanted: Wanted, evidence: Comparison | None) -> Steps:
    """What would have to be done for the gate to hold."""
    score = act("evaluate", "and its base on the same rows", model=wanted.model, data=OPEN, evaluator=OPEN)
    model = EvaluationOf(wanted.model)
    if evidence is None:
        return score, act("compare", baseline=OPEN, candidate=model)
    if short(evidence.candidate_model) != wanted.model:
        return (act("compare", baseline=EvaluationOf(short(evidence.baseline_model)), candidate=model),)
    if evidence.trained_on:
        heldout = {**score.action.arguments, "split": "heldout"} if score.action else {}
        return act("evaluate", "and its baseline", **heldout), act("compare", baseline=OPEN, candidate=model)
    if evidence.verdict is Verdict.INVALID:
        return repair(evidence)
    if evidence.verdict is Verdict.INCONCLUSIVE and evidence.rows_needed:
        rows = Placeholder(f"about {evidence.rows_needed} rows in all")
        both = f"and '{short(evidence.baseline_model)}' too"
        asked = act("evaluate", both, model=wanted.model, data=rows, evaluator=OPEN)
        return asked, act("compare", "would decide it", baseline=OPEN, candidate=OPEN)
    wanted_mean = wanted.gate.min_score
    if evidence.verdict is Verdict.BETTER and wanted_mean is not None and evidence.candidate_mean < wanted_mean:
        return (again("customize", f"with more or better rows, or a lower min_score than {wanted_mean:g}"),)
    sides = {"baseline": short(evidence.baseline), "candidate": short(evidence.candidate)}
    return act("compare", "shows which rows were lost", **sides, detail="full"), again("customize", "with better rows")


def way_back(former: Deployment) -> Step:
    """The call that serves the former model again, on what it was served on."""
    forced = former.forced or former.comparison is None
    gate = Gate() if forced else former.gate
    step = act("deploy", model=short(former.base_model), name=former.id, comparison=short(former.comparison))
    assert step.action is not None
    how = {"force": True} if forced else gate_arguments(gate)
    arguments = {**step.action.arguments, **how, "confirm": former.id}
    return replace(step, action=replace(step.action, arguments=arguments))


def way_off(deployment: Deployment) -> Step:
    """The call that stops serving a deployment which replaced nothing."""
    return act("deploy", action="stop", name=deployment.id, confirm=deployment.id)

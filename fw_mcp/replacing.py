"""When one model may take another's place under a name, and the call that gives the place back."""

from __future__ import annotations

from dataclasses import dataclass

from fw_mcp.tools.arguments import slug
from fw_mcp.views import mend_failing, short
from fw_sdk.types import Comparison, Deployment, FwError, Gate, GateKind, Verdict


@dataclass(frozen=True)
class Wanted:
    """What is to be served, as the caller said it, in ids."""

    model: str
    name: str
    comparison: str | None
    gate: Gate
    force: bool

    @classmethod
    def of(cls, model: str | None, name: str | None, comparison: str | None, gate: Gate, force: bool) -> Wanted:
        """Raises ``FwError`` without a model."""
        if not model:
            raise FwError(
                "invalid_argument",
                "deploy needs the model to start.",
                not_done="Nothing was deployed.",
                hint="overview() lists models",
                param="model",
            )
        identifier = short(model) or model
        return cls(identifier, short(name) or slug(identifier, "model"), short(comparison), gate, force)

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


def towards_the_gate(wanted: Wanted, evidence: Comparison | None) -> str:
    """What would have to be done for the gate to hold."""
    if evidence is None:
        return f"evaluate(model='{wanted.model}', ...) and its base on the same rows, then compare(...)"
    if short(evidence.candidate_model) != wanted.model:
        return f"compare(baseline='{short(evidence.baseline_model)}', candidate='{wanted.model}')"
    if evidence.trained_on:
        return f"evaluate(model='{wanted.model}', split='heldout', ...) and its baseline, then compare(...)"
    if evidence.verdict is Verdict.INVALID:
        return mend_failing(evidence)
    if evidence.verdict is Verdict.INCONCLUSIVE and evidence.rows_needed:
        pair = f"'{short(evidence.baseline_model)}' and '{wanted.model}'"
        return f"evaluate(...) {pair} on about {evidence.rows_needed} rows, then compare(...), would decide it"
    sides = f"baseline='{short(evidence.baseline)}', candidate='{short(evidence.candidate)}'"
    return f"compare({sides}, detail='full') shows which rows were lost; then customize(...) with better rows"


def check_replacing(wanted: Wanted, replaced: str, evidence: Comparison | None, confirm: str | None) -> None:
    """Raise unless something speaks for the replacement and the caller repeated the name of what is replaced."""
    still = f"'{replaced}' is still served."
    if evidence is None and not wanted.force:
        raise FwError(
            "gate_not_met",
            f"Deployment '{wanted.name}' serves '{replaced}', and no comparison says that '{wanted.model}' is better "
            "than that.",
            not_done=still,
            hint=f"compare(baseline='{replaced}', candidate='{wanted.model}') and what its next says; or another name",
            param="comparison",
        )
    if short(confirm) != wanted.name:
        because = f"comparison='{evidence.id}'" if evidence and not wanted.force else "force=true"
        raise FwError(
            "failed_precondition",
            f"Deployment '{wanted.name}' serves '{replaced}': to replace it, give its id as confirm too.",
            not_done=still,
            hint=f"deploy(model='{wanted.model}', name='{wanted.name}', {because}, confirm='{wanted.name}')",
            param="confirm",
        )


def way_back(former: Deployment) -> str:
    """The call that serves the former model again, on what it was served on."""
    gate, because = former.gate, []
    if former.comparison is not None:
        because.append(f"comparison='{short(former.comparison)}'")
    if former.forced or former.comparison is None:
        because.append("force=true")
    elif gate.kind is GateKind.NOT_WORSE:
        because.append(f"gate='not_worse', margin={gate.margin:g}")
    if gate.min_score is not None and not former.forced:
        because.append(f"min_score={gate.min_score:g}")
    named = f"model='{short(former.base_model)}', name='{former.id}'"
    return f"deploy({named}, {', '.join(because)}, confirm='{former.id}')"

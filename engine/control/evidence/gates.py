"""Gates: whether a comparison allows a model to be deployed. Pure functions of stored facts."""

from __future__ import annotations

from dataclasses import dataclass

from engine.evals.statistics import MOST_MISSING
from fw_sdk.types import (
    Comparison,
    FwError,
    Gate,
    GateKind,
    InferenceParameters,
    ServedConfiguration,
    Verdict,
    resource_id,
)

COST_KEYS = ("tokens", "seconds")


@dataclass(frozen=True)
class Candidate:
    """The model that wants to be served: its full name and the digest of its weights."""

    name: str
    digest: str

    @property
    def id(self) -> str:
        """The model's bare id."""
        return resource_id(self.name, "models")


@dataclass(frozen=True)
class Decision:
    """What a gate says, in one sentence, and what would help when it does not hold."""

    holds: bool
    reason: str
    hint: str = ""


def decide(gate: Gate, comparison: Comparison | None, candidate: Candidate) -> Decision:
    """Whether ``comparison`` lets ``candidate`` through ``gate``, by the digests that it holds.

    Args:
        gate: the condition.
        comparison: the paired result that is to justify the deployment, if there is one.
        candidate: what would be served.
    """
    if comparison is None:
        return Decision(
            False,
            f"no comparison of '{candidate.id}' was named",
            "evaluate it and a baseline on the same rows, compare them, and pass the comparison",
        )
    mismatch = _mismatch(comparison, candidate)
    if mismatch:
        return Decision(False, mismatch, "compare an evaluation of exactly the model that is to be deployed")
    if comparison.trained_on is None:
        return Decision(
            False,
            f"it is not known any more what '{candidate.id}' was trained on, so comparison '{comparison.id}' may have "
            "scored those very rows",
            "evaluate it and the baseline on rows that are new, and compare those",
        )
    if comparison.trained_on:
        return Decision(
            False,
            f"comparison '{comparison.id}' scored {comparison.trained_on} rows of {comparison.n} that "
            f"'{candidate.id}' was trained on, which measures memory",
            "evaluate it and the baseline on rows that were held out, and compare those",
        )
    if comparison.verdict is Verdict.INVALID:
        return _invalid(comparison)
    compared = _better(comparison) if gate.kind is GateKind.BETTER else _not_worse(comparison, gate.margin)
    return _good_enough(comparison, gate.min_score) if compared.holds and gate.min_score is not None else compared


def refusal(decision: Decision, gate: Gate, comparison: Comparison | None, candidate: Candidate) -> FwError:
    """The ``gate_not_met`` error of a decision that does not hold: what was compared, its numbers, how to force."""
    details: dict[str, object] = {"gate": gate.to_wire()}
    if comparison is not None:
        details |= {
            "comparison": comparison.name,
            "verdict": str(comparison.verdict),
            "candidateMean": comparison.candidate_mean,
            "delta": comparison.delta,
            "ci": comparison.ci.to_wire(),
            "n": comparison.n,
            "rowsNeeded": comparison.rows_needed,
            "baselineFailedRows": comparison.baseline_failed_rows,
            "candidateFailedRows": comparison.candidate_failed_rows,
        }
    hint = f"{decision.hint}; or deploy it anyway with force" if decision.hint else "deploy it anyway with force"
    return FwError(
        "gate_not_met",
        f"The gate '{gate.kind}' is not met: {decision.reason}.",
        not_done=f"'{candidate.id}' was not deployed; what was served before still is.",
        hint=hint,
        param="comparison",
        details=details,
    )


def evaluated(comparison: Comparison | None) -> ServedConfiguration | None:
    """What a comparison's candidate really was; None without one, or if the first wave did not keep it."""
    side = comparison.candidate_evidence if comparison is not None else None
    return side.configuration if side is not None else None


def sampled(comparison: Comparison | None, digest: str) -> dict[str, float]:
    """How the weights that are to be served were sampled when they were scored; empty if they were not."""
    scored = evaluated(comparison)
    if scored is None or scored.model_digest != digest:
        return {}
    inference = InferenceParameters.model_validate(scored.sampling)
    return {"temperature": inference.temperature, "top_p": inference.top_p}


def numbers(comparison: Comparison) -> str:
    """A comparison in one clause: verdict, delta, interval, n, and the rows without a score if there are any."""
    ci = comparison.ci
    return (
        f"comparison '{comparison.id}' says {comparison.verdict}: delta {comparison.delta:+.3f}, "
        f"{ci.level:.0%} interval [{ci.low:+.3f}, {ci.high:+.3f}], n={comparison.n}{_failed(comparison)}"
    )


def _failed(comparison: Comparison) -> str:
    counts = (comparison.baseline_failed_rows, comparison.candidate_failed_rows)
    if not any(counts):
        return ""
    return f" (rows without a score: baseline {counts[0]}, candidate {counts[1]}; they count against the candidate)"


def _mismatch(comparison: Comparison, candidate: Candidate) -> str:
    scored = evaluated(comparison)
    if not comparison.verified or scored is None:
        return f"comparison '{comparison.id}' is unverified: it does not hold the digests of what was scored"
    if scored.model_digest != candidate.digest:
        other = resource_id(str(comparison.candidate_model), "models")
        about = "" if other == candidate.id else f"it is about '{other}', not about '{candidate.id}': "
        return (
            f"comparison '{comparison.id}' does not fit: {about}it scored weights {scored.model_digest[:19]}, "
            f"but '{candidate.id}' is now {candidate.digest[:19]}"
        )
    if scored.few_shot:
        return f"comparison '{comparison.id}' scored '{candidate.id}' with examples in its prompt, served without them"
    before = comparison.baseline_evidence and comparison.baseline_evidence.configuration
    return _no_contest(comparison, before, scored) if before else ""


def _no_contest(comparison: Comparison, before: ServedConfiguration, scored: ServedConfiguration) -> str:
    """Why the sides of a comparison are no two models under equal conditions; empty if they are."""
    lengths = [side.sampling.get("maxTokens") for side in (before, scored)]
    if lengths[0] != lengths[1]:
        return (
            f"comparison '{comparison.id}' gave the baseline {lengths[0]} tokens for an answer and the candidate "
            f"{lengths[1]}"
        )
    if _served(before) == _served(scored):
        return f"comparison '{comparison.id}' compares the model with itself"
    return ""


def _served(side: ServedConfiguration) -> tuple[object, ...]:
    """What of a side would be served; whatever else differs is chance."""
    weights = (side.model_digest, side.base_digest, side.dtype, side.numerics, side.template_digest)
    return (*weights, side.sampling.get("temperature"), side.sampling.get("topP"), side.few_shot)


def _invalid(comparison: Comparison) -> Decision:
    return Decision(
        False,
        f"{numbers(comparison)}; where more than {MOST_MISSING:.0%} of a side's rows have no score, nothing is valid",
        "look at the errors in those rows' scores, mend what fails (evaluator, row or model), and evaluate again",
    )


def _better(comparison: Comparison) -> Decision:
    if comparison.verdict is Verdict.BETTER:
        return Decision(True, numbers(comparison))
    needed = comparison.rows_needed
    more = (
        f"about {needed} held-out rows would decide it"
        if comparison.verdict is Verdict.INCONCLUSIVE and needed and needed > comparison.n
        else "change the data or the training"
    )
    return Decision(False, numbers(comparison), more)


def _not_worse(comparison: Comparison, margin: float) -> Decision:
    if comparison.ci.low < -margin:
        return Decision(
            False,
            f"{numbers(comparison)}; a loss of more than the margin {margin:g} cannot be ruled out",
            "score more rows, or declare a larger margin",
        )
    savings = [key for key in COST_KEYS if _no_higher(comparison, key)]
    if not savings:
        return Decision(
            False,
            f"{numbers(comparison)}; it is neither cheaper nor faster than the baseline ({_costs(comparison)})",
            "a model that is only not worse must cost no more",
        )
    return Decision(True, f"{numbers(comparison)}; within the margin {margin:g}, no more {' nor '.join(savings)}")


def _good_enough(comparison: Comparison, wanted: float) -> Decision:
    reached = f"its mean over {comparison.n} rows is {comparison.candidate_mean:.3f}"
    if comparison.candidate_mean < wanted:
        return Decision(
            False,
            f"{numbers(comparison)}, but {reached}, below the {wanted:g} that was asked for",
            "more or better training rows, or a lower min_score",
        )
    return Decision(True, f"{numbers(comparison)}; {reached}, and {wanted:g} was asked for")


def _no_higher(comparison: Comparison, key: str) -> bool:
    baseline, candidate = _pair(comparison, key)
    return baseline is not None and candidate is not None and candidate <= baseline


def _pair(comparison: Comparison, key: str) -> tuple[float | None, float | None]:
    return comparison.cost.get(f"baseline_{key}"), comparison.cost.get(f"candidate_{key}")


def _costs(comparison: Comparison) -> str:
    parts = []
    for key in COST_KEYS:
        baseline, candidate = _pair(comparison, key)
        if baseline is not None and candidate is not None:
            parts.append(f"{candidate:.6g} {key} against {baseline:.6g}")
    return ", ".join(parts) or "no cost was recorded"

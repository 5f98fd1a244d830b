"""When one model may take another's place under a name: on evidence, and with the name repeated."""

from __future__ import annotations

from fw_mcp.tools.arguments import slug
from fw_mcp.views import short
from fw_sdk.results.gating import Wanted, deploy_again
from fw_sdk.results.spelling import tool_call
from fw_sdk.types import Comparison, FwError, Gate


def wanted_from(model: str | None, name: str | None, comparison: str | None, gate: Gate, force: bool) -> Wanted:
    """What the arguments of ``deploy`` ask for, in ids; ``FwError`` without a model."""
    if not model:
        raise FwError(
            "invalid_argument",
            "deploy needs the model to start.",
            not_done="Nothing was deployed.",
            hint="overview() lists models",
            param="model",
        )
    identifier = short(model) or model
    return Wanted(identifier, short(name) or slug(identifier, "model"), short(comparison), gate, force)


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
        raise FwError(
            "failed_precondition",
            f"Deployment '{wanted.name}' serves '{replaced}': to replace it, give its id as confirm too.",
            not_done=still,
            hint=deploy_again(wanted, evidence, replaces=True).text(tool_call),
            param="confirm",
        )

"""Removing a model that nothing uses, and its files unless another model has the same."""

from __future__ import annotations

from engine.control.context import Context
from engine.control.inventory.files import drop_weights
from fw_sdk.types import DeploymentState, FwError, Model, answering


def delete_model(context: Context, identifier: str) -> None:
    """Remove a model; ``failed_precondition`` names the job, deployment or adapter that uses it."""

    def check(model: Model) -> None:
        user = _user_of(context, model)
        if user:
            raise FwError(
                "failed_precondition",
                f"Model '{identifier}' is used by {user}.",
                not_done="it was not deleted",
                hint="stop, cancel or delete that first",
            )

    context.store.models.delete(identifier, check)
    drop_weights(context)


def _user_of(context: Context, model: Model) -> str:
    for deployment in context.store.deployments.all():
        creating = deployment if deployment.state is DeploymentState.CREATING else None
        held = [item.base_model for item in (creating, answering(deployment)) if item is not None]
        if model.name in held or model.id in held:
            return f"deployment '{deployment.id}'"
    for other in context.store.models.all():
        if other.peft_details is not None and other.peft_details.base_model == model.name:
            return f"its adapter '{other.id}'"
    making = context.store.jobs.find(model.job.rsplit("/", 1)[-1]) if model.job else None
    if making is not None and not making.state.ended:
        return f"job '{making.id}', which makes it"
    return ""

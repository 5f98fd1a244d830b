"""What a model name in a request stands for: the weights to serve, through a deployment or directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.control.inventory.model_names import not_ready, refuse_job
from engine.control.serving.leases import AdapterWeights
from engine.control.serving.worker_process import BaseWeights
from engine.control.store import Store
from fw_sdk.types import ACCOUNT, Deployment, FwError, Model, ModelKind, ModelState, not_found, resource_id

HINT = "GET /v1/models lists what answers now; GET /v1/accounts/local/models lists every model"


@dataclass(frozen=True)
class Target:
    """Weights that can be served.

    Attributes:
        model: the model that was named, itself a base or an adapter.
        base: the base weights.
        adapter: the adapter on top of them, if ``model`` is one.
        sampling: what a request that names none is sampled with.
    """

    model: Model
    base: BaseWeights
    adapter: AdapterWeights | None
    sampling: Mapping[str, float] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The digest of the named model's own weights."""
        return self.adapter.digest if self.adapter else self.base.digest


def find_served(store: Store, name: str) -> Deployment | Model:
    """The deployment or model of a request's ``model``: a bare id (deployments first) or a full name.

    Raises:
        FwError: ``not_found``, naming the nearest deployment or model.
    """
    bare = name.removeprefix(f"accounts/{ACCOUNT}/deployments/").removeprefix(f"accounts/{ACCOUNT}/models/")
    lookups: dict[str, Callable[[str], Deployment | Model | None]] = {
        "deployments": store.deployments.find,
        "models": store.models.find,
    }
    for collection, find in lookups.items():
        if name in (bare, f"accounts/{ACCOUNT}/{collection}/{bare}"):
            found = find(bare)
            if found is not None:
                return found
    refuse_job(store, bare)
    error = not_found("model", bare, {*store.deployments.ids(), *store.models.ids()}, HINT)
    error.param = "model"
    error.not_done = "no tokens were generated"
    raise error


def target_of_deployment(store: Store, deployment: Deployment) -> Target:
    """The weights behind a deployment, which must still be those that passed its gate."""
    target = target_of_model(store, store.models.get(resource_id(deployment.base_model, "models")))
    if deployment.model_digest not in (None, target.digest):
        raise FwError(
            "failed_precondition",
            f"'{target.model.id}' is {target.digest[:19]} now; deployment '{deployment.id}' was made for "
            f"{str(deployment.model_digest)[:19]}.",
            not_done="nothing was served under that deployment",
            hint="deploy the model again with a comparison of its new weights",
        )
    return replace(target, sampling=deployment.sampling)


def target_of_model(store: Store, model: Model) -> Target:
    """The weights of a READY model; an adapter's base must still be the one that it was trained on."""
    digest, path = _weights(store, model)
    if model.kind is ModelKind.BASE:
        return Target(model, BaseWeights(model.id, digest, path), None)
    if model.peft_details is None:
        raise FwError("failed_precondition", f"Adapter '{model.id}' does not say what its base is.")
    base = store.models.get(resource_id(model.peft_details.base_model, "models"))
    base_digest, base_path = _weights(store, base)
    if model.lineage is not None and model.lineage.base_digest != base_digest:
        raise FwError(
            "failed_precondition",
            f"Adapter '{model.id}' was trained on {model.lineage.base_digest[:19]}, but '{base.id}' is now "
            f"{base_digest[:19]}.",
            not_done="it was not served",
            hint=f"pull the base again as it was, or fine-tune on '{base.id}' again",
        )
    return Target(model, BaseWeights(base.id, base_digest, base_path), AdapterWeights(digest, path))


def _weights(store: Store, model: Model) -> tuple[str, Path]:
    if model.state is not ModelState.READY or model.digest is None or model.path is None:
        raise not_ready(store, model)
    return model.digest, Path(model.path)

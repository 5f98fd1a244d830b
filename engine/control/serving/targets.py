"""The weights behind a deployment or a model, and the digest of all that shapes their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.catalog.digests import serving_digest
from engine.control.inventory.resolution import not_ready
from engine.control.serving.leases import AdapterWeights
from engine.control.serving.worker_process import BaseWeights, WorkerFacts
from engine.control.store import Store
from fw_sdk.types import Deployment, FwError, Model, ModelKind, ModelState, resource_id


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

    def serving_digest(self, facts: WorkerFacts) -> str:
        """What this target's answers carry as ``fw-digest`` when a worker with these facts gives them."""
        return serving_digest(
            self.base.digest,
            self.adapter.digest if self.adapter else None,
            dtype=facts.dtype,
            numerics=facts.numerics,
            template=facts.template_digest,
            preset=self.sampling,
        )


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

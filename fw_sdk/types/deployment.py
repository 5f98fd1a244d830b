"""Deployments: a served model behind a gate."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from fw_sdk.types.base import RequestBody, Resource, Wire


class DeploymentState(StrEnum):
    """READY only after a probe request was answered."""

    CREATING = "CREATING"
    READY = "READY"
    FAILED = "FAILED"
    DELETING = "DELETING"
    DELETED = "DELETED"


class GateKind(StrEnum):
    """What the comparison must say."""

    BETTER = "better"
    NOT_WORSE = "not_worse"


class Gate(RequestBody):
    """The condition for deploying.

    ``not_worse`` allows a loss of at most ``margin`` (of the score's unit). With ``min_score`` the candidate's mean
    over the compared rows must reach that too: a model can be better than its baseline and still not good enough.
    """

    kind: GateKind = GateKind.BETTER
    margin: float = Field(default=0.0, ge=0)
    min_score: float | None = Field(default=None, allow_inf_nan=False)


class Deployment(Resource):
    """A model served under a stable name.

    ``sampling`` is how it was scored (``temperature``, ``top_p``): a request that names none is answered that way.
    ``previous`` is what this one replaces: it answers until this one has passed its probe, and on if it does not.
    """

    state: DeploymentState = DeploymentState.CREATING
    base_model: str = Field(description="the served model: base or adapter")
    model_digest: str | None = None
    serving_digest: str | None = Field(default=None, description="what its answers carry as fw-digest, once READY")
    comparison: str | None = None
    gate: Gate = Field(default_factory=Gate)
    forced: bool = False
    sampling: dict[str, float] = Field(default_factory=dict)
    replica_count: int = 1
    url: str | None = Field(default=None, description="where the daemon that shows it answers now")
    status: StatusMessage | None = None
    probe_latency_s: float | None = Field(default=None, description="of the last probe that it passed")
    previous: Deployment | None = None
    retry_time: datetime | None = Field(default=None, description="when a FAILED one is tried again by itself")


class StatusMessage(Wire):
    """The hosted API's ``Status``: a code word and a sentence."""

    code: str = "OK"
    message: str = ""


def answering(deployment: Deployment) -> Deployment | None:
    """The deployment whose weights answer now: itself, what it replaces, or None."""
    if deployment.state is DeploymentState.READY:
        return deployment
    return deployment.previous if deployment.state is not DeploymentState.DELETING else None


class CreateDeployment(RequestBody):
    """Body of ``POST /deployments`` (the id is the query parameter ``deploymentId``)."""

    base_model: str
    display_name: str | None = None
    comparison: str | None = None
    gate: Gate = Field(default_factory=Gate)
    force: bool = False


Deployment.model_rebuild()

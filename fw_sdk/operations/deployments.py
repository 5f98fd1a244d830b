"""Deployments: models served behind a gate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fw_sdk.calls import Call, Listing, Pause, Steps
from fw_sdk.operations import paths
from fw_sdk.operations.paths import collection_path
from fw_sdk.types import CreateDeployment, Deployment, DeploymentState, FwError, Gate, parse_request

COLLECTION = "deployments"


def create(
    model: str,
    *,
    id: str | None = None,
    comparison: str | None = None,
    gate: Gate | Mapping[str, Any] | None = None,
    force: bool = False,
    display_name: str | None = None,
) -> Call[Deployment]:
    """Serve a model under a stable name.

    Args:
        model: the model to serve.
        id: the deployment's id: the name that requests use.
        comparison: the comparison that the gate looks at.
        gate: what it must say, a ``Gate`` or a dict of its fields; ``better`` by default.
        force: deploy whatever the gate says; the deployment records that.
        display_name: a name for people.

    Raises:
        GateNotMetError: the comparison does not allow it.
    """
    fields = paths.present(
        base_model=model,
        comparison=comparison,
        gate=gate,
        force=force,
        display_name=display_name,
    )
    body = parse_request(CreateDeployment, fields, not_done="nothing was deployed").to_wire()
    query = paths.present(deploymentId=id)
    return Call("POST", collection_path(COLLECTION), Deployment.model_validate, query=query, body=body)


def get(deployment: str) -> Call[Deployment]:
    """One deployment by id or full name."""
    return paths.get(Deployment, COLLECTION, deployment)


def list_all(*, page_size: int = 50) -> Listing[Deployment]:
    """Every deployment, newest first."""
    return paths.listing(Deployment, COLLECTION, page_size)


def delete(deployment: str) -> Call[None]:
    """Stop a deployment and free everything it holds."""
    return paths.delete(COLLECTION, deployment)


def wait(deployment: str, *, timeout_s: float = 300.0) -> Steps[Deployment]:
    """Wait until a deployment has answered its probe.

    Raises:
        UnavailableError: it failed; the message says why.
        DeadlineExceededError: it is still starting.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        current = yield from get(deployment)
        if current.state is DeploymentState.READY:
            return current
        if current.state is not DeploymentState.CREATING:
            reason = current.status.message if current.status else ""
            raise FwError(
                "unavailable",
                f"Deployment '{current.id}' is {current.state.value}: {reason or 'no reason given'}",
                hint=f"fw deploy show {current.id}; fw logs",
                retryable=False,
            )
        if time.monotonic() >= deadline:
            raise FwError(
                "deadline_exceeded",
                f"Deployment '{current.id}' is still starting after {timeout_s:g} s",
                hint=f"fw deploy show {current.id}",
            )
        yield Pause(0.3)

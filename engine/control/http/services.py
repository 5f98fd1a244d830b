"""What every route and background task works with, in one frozen container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from fastapi import Depends, Request

from engine.control.settings import Settings
from engine.control.store import Store
from engine.control.supervision import Loop
from fw_sdk.types.home import Home

if TYPE_CHECKING:
    from engine.control.gateway.relay import Gateway
    from engine.control.jobs.service import JobService
    from engine.control.serving.deployments import Deployments
    from engine.control.serving.workers import Workers


class Component(Protocol):
    """Something that runs for as long as the app does, on the app's event loop."""

    @property
    def loop(self) -> Loop:
        """Its background loop; ``/v1/health`` shows how it is."""

    async def start(self) -> None:
        """Adopt what an earlier daemon left running, then begin."""

    async def stop(self, *, keep_processes: bool) -> None:
        """End; child processes live on if ``keep_processes``."""


@dataclass(frozen=True)
class Services:
    """The parts of the control plane.

    Attributes:
        home: where things are kept.
        settings: what the starter of the daemon chose.
        store: what the daemon remembers.
        jobs: the queue and the processes of jobs.
        workers: the processes that answer inference requests.
        deployments: what is served under a stable name; made from (store, workers, settings.base_url).
        gateway: relays inference requests; made from (store, workers, deployments).
    """

    home: Home
    settings: Settings
    store: Store
    jobs: JobService
    workers: Workers
    deployments: Deployments
    gateway: Gateway


def services_of(request: Request) -> Services:
    """The services of the app that received a request."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


async def _provide(request: Request) -> Services:
    """``services_of`` as a dependency: a plain function would take a thread for every request."""
    return services_of(request)


Provided = Annotated[Services, Depends(_provide)]
"""For route functions: ``def get(services: Provided) -> …``."""

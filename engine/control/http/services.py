"""What every route works with, and how a route asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request

from engine.control.gateway.relay import Gateway
from engine.control.http.lanes import Lanes
from engine.control.serving.context import ServingContext
from engine.control.supervision import Loop


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
class Services(ServingContext):
    """All parts of the control plane.

    Attributes:
        gateway: relays inference requests.
        lanes: threads for slow work.
    """

    gateway: Gateway
    lanes: Lanes = field(default_factory=Lanes)


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

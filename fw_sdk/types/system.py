"""What the server says about itself: health, the machine, and an overview."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from fw_sdk.types.base import Wire


class LoopState(StrEnum):
    """How a background loop of the daemon is: ``failing`` ones are tried again, ``overdue`` ones hang."""

    OK = "ok"
    FAILING = "failing"
    OVERDUE = "overdue"
    STOPPED = "stopped"


class LoopHealth(Wire):
    """One background loop of the daemon; its log has the text and the traceback of ``lastError``."""

    name: str
    state: LoopState
    last_success_age_s: float | None = Field(default=None, description="seconds since a tick last succeeded")
    consecutive_failures: int = 0
    last_error: str | None = Field(default=None, description="the kind of the last failure")


class Health(Wire):
    """Reply of ``GET /v1/health``; needs no token and tells nothing private."""

    status: str = Field(default="ok", description="ok | degraded: a background loop fails or hangs")
    version: str
    pid: int
    evaluator_isolation: str = Field(description="limits | none: how evaluator code is confined here")
    supervision: list[LoopHealth] = Field(default_factory=list)


class Device(Wire):
    """Where models run on this machine."""

    kind: str = Field(description="cpu | cuda")
    name: str
    cores: int
    memory_bytes: int
    memory_available_bytes: int
    bf16: bool


class Overview(Wire):
    """The state of everything in one reply, newest first, each list at most 20 long."""

    version: str
    home: str = Field(default="", description="the folder in which the daemon keeps everything")
    device: Device
    models: list[dict[str, object]] = Field(default_factory=list)
    datasets: list[dict[str, object]] = Field(default_factory=list)
    evaluators: list[dict[str, object]] = Field(default_factory=list)
    jobs: list[dict[str, object]] = Field(default_factory=list)
    deployments: list[dict[str, object]] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict, description="how many of each kind there are in all")
    next: str = Field(default="", description="the most useful next call")

"""Jobs as clients see them: states, events, typed failures."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from pydantic import Field

from fw_sdk.types.base import Ref, Resource, Wire

KIND_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,30}")


class JobState(StrEnum):
    """States of a job, as the hosted API names them."""

    PENDING = "JOB_STATE_PENDING"
    RUNNING = "JOB_STATE_RUNNING"
    CANCELLING = "JOB_STATE_CANCELLING"
    COMPLETED = "JOB_STATE_COMPLETED"
    FAILED = "JOB_STATE_FAILED"
    CANCELLED = "JOB_STATE_CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job unless it is resumed."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


class JobKind(StrEnum):
    """What a job does. The kinds of this version; a newer daemon's others are taken in as further members."""

    PULL = "pull"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"
    PIPELINE = "pipeline"

    @classmethod
    def _missing_(cls, value: object) -> JobKind | None:
        if not isinstance(value, str) or not KIND_PATTERN.fullmatch(value):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value.upper(), value
        return cast(JobKind, cls._value2member_map_.setdefault(value, member))


class Progress(Wire):
    """How far a job is. ``done`` and ``total`` count ``unit``s; ``eta_s`` is an estimate in seconds."""

    done: int = 0
    total: int = 0
    unit: str = "steps"
    message: str = ""
    eta_s: float | None = None

    @property
    def percent(self) -> int:
        """Whole percent done, 0 when the total is not known."""
        return min(100, int(100 * self.done / self.total)) if self.total else 0


class Failure(Wire):
    """Why a job failed: the fields of ``FwError`` and the end of the job's log."""

    code: str
    message: str
    not_done: str = ""
    hint: str = ""
    retryable: bool = False
    details: dict[str, Any] = Field(default_factory=dict)
    log_tail: list[str] = Field(default_factory=list)


class Job(Resource):
    """One training, evaluation, pull or pipeline, whatever its kind."""

    kind: JobKind
    state: JobState = JobState.PENDING
    uses: list[Ref] = Field(default_factory=list, description="what it works on; kept until it has ended")
    makes: str | None = Field(default=None, description="full name of the model that it makes")
    progress: Progress = Field(default_factory=Progress)
    attempt: int = 1
    failure: Failure | None = None
    result: dict[str, Any] | None = None
    spec: dict[str, Any] = Field(default_factory=dict, exclude=True, description="its program's; in no reply")
    start_time: datetime | None = None
    completed_time: datetime | None = None


class JobEvent(Wire):
    """One entry of a job's ordered record. ``seq`` starts at 1 and has no gaps.

    ``type`` is one of ``state``, ``progress``, ``metric``, ``message``, ``warning``, ``result``.
    """

    seq: int
    time: datetime
    type: str
    data: dict[str, Any] = Field(default_factory=dict)

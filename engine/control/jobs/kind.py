"""A kind of job as one record: its words, its program, what it needs, how it is asked for, what its end means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from engine.control.jobs.resources import NOTHING, Resources
from engine.control.store import Store
from fw_sdk.types import Job, JobKind, JobType, RequestBody

if TYPE_CHECKING:
    from engine.control.jobs.context import QueueContext

R = TypeVar("R", bound=RequestBody)
STALL_S = 3600.0


@dataclass(frozen=True)
class Hooks:
    """Reactions to a job's course. Each may run twice and then does nothing new.

    Attributes:
        completed: takes the program's result in; returns fields to set on the job.
        unfinished: the job failed or was cancelled, as its state says.
        restarted: it runs again.
    """

    completed: Callable[[Store, Job, dict[str, Any]], dict[str, Any]] = lambda _store, _job, _result: {}
    unfinished: Callable[[Store, Job], None] = lambda _store, _job: None
    restarted: Callable[[Store, Job], None] = lambda _store, _job: None


@dataclass(frozen=True)
class Draft:
    """A checked request: the job it would make, and what its id begins with where the client names none.

    Attributes:
        job: the record; ``uses`` holds the digest of everything that shapes the result. Its name is not final.
        stem: the beginning of an id.
    """

    job: Job
    stem: str


@dataclass(frozen=True)
class Creation(Generic[R]):
    """How a kind is asked for.

    Attributes:
        request: the body of ``POST /<collection>``.
        draft: checks a request; raises what is wrong with it and stores nothing.
        identifier: the id that the body names, if it has a field for that.
        reserve: stores what must exist before the job does (a model to be made) and names it in the job; may run twice.
        longest_id: how long an id may be.
    """

    request: type[R]
    draft: Callable[[QueueContext, R], Draft]
    identifier: Callable[[R], str | None] = lambda _request: None
    reserve: Callable[[QueueContext, Job], Job] = lambda _context, job: job
    longest_id: int = 63


@dataclass(frozen=True)
class Kind:
    """Everything that control knows of one kind of job.

    Attributes:
        type: what clients know of it.
        program: the command line that runs it, the job's directory left out; empty if a workflow carries it.
        needs: what a job of this kind takes from the machine while it runs.
        hooks: what the end of a job means for everything else.
        creation: how clients ask for one by ``POST /<collection>``; None if another route makes them.
        stall_s: a program that says nothing for so many seconds is terminated.
        timeout_s: an attempt that lasts longer is terminated, whatever it says; None: it may last for ever.
        variables: beginnings of environment variables of the daemon that the program gets.
    """

    type: JobType
    program: tuple[str, ...] = ()
    needs: Callable[[Job], Resources] = lambda _job: NOTHING
    hooks: Hooks = field(default_factory=Hooks)
    creation: Creation[Any] | None = None
    stall_s: float = STALL_S
    timeout_s: float | None = None
    variables: tuple[str, ...] = ()


Kinds = Mapping[JobKind, Kind]

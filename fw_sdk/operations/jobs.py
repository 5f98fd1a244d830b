"""Jobs of every kind: state, events, logs, waiting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from fw_sdk.calls import Call, EventStream, Listing, Pause, ServerSentEvent, Steps
from fw_sdk.exceptions import CancelledError, JobFailedError
from fw_sdk.operations import paths
from fw_sdk.operations.paths import collection_path, item_path
from fw_sdk.types import FwError, Job, JobDescriptor, JobEvent, JobState, job_from_wire

COLLECTION = "jobs"
LONGEST_POLL_S = 20.0
EVENT_POLL_S = 1.0
PATIENCE_S = 60.0
"""How long a wait bears a daemon that does not answer (it may be restarting)."""


def get(job: str) -> Call[Job]:
    """One job by id or full name, as what its kind is (``Pipeline``, ``FineTuningJob``, ``Evaluation``)."""
    return Call("GET", item_path(COLLECTION, job), job_from_wire)


def list_all(*, collection: str = COLLECTION, page_size: int = 50) -> Listing[Job]:
    """Jobs of every kind, newest first, each as what it is; with ``collection`` (see ``kinds``) those of one kind."""
    return Listing(collection_path(collection), collection, job_from_wire, page_size)


def kinds() -> Call[list[JobDescriptor]]:
    """The kinds of job that the daemon knows, those newer than this client too, with what tells a reader about one."""
    path = collection_path("jobKinds")
    return Call("GET", path, lambda body: [JobDescriptor.model_validate(kind) for kind in body["jobKinds"]])


def start(collection: str, request: dict[str, Any], *, reuse: bool = False) -> Call[Job]:
    """Start a job of any kind: ``request`` is the body of ``POST /<collection>`` (see ``kinds``)."""
    query = paths.present(reuse="true" if reuse else None)
    return Call("POST", collection_path(collection), job_from_wire, query=query, body=request)


def cancel(job: str) -> Call[Job]:
    """Stop a job; what it finished stays."""
    return Call("POST", item_path(COLLECTION, job, "cancel"), job_from_wire, body={})


def resume(job: str) -> Call[Job]:
    """Start a failed or cancelled job again from what it kept."""
    return Call("POST", item_path(COLLECTION, job, "resume"), job_from_wire, body={})


def delete(job: str) -> Call[None]:
    """Delete an ended job: its record, events, log and scores. What it made stays."""
    return paths.delete(COLLECTION, job)


def logs(job: str, *, lines: int = 100) -> Call[list[str]]:
    """The last lines of a job's log."""
    return Call("GET", item_path(COLLECTION, job, "logs"), lambda body: list(body["lines"]), query={"lines": lines})


def events(job: str, *, after: int = 0) -> EventStream[JobEvent]:
    """Events as they happen, from the one behind ``after`` until the job has ended; a lost connection is resumed.

    A resumed job has events behind the one that says FAILED: the job's state now decides, not an event.
    """
    path = item_path(COLLECTION, job, "events")
    call = Call("GET", path, paths.nothing, query={"after": after})
    return EventStream(call, _decode_event, "after", lambda event_id: _rest(job, int(event_id or after)))


def past_events(job: str, *, after: int = 0) -> Call[list[JobEvent]]:
    """The events that have happened until now, behind ``after``."""
    query = {"after": after, "follow": "false"}
    return Call("GET", item_path(COLLECTION, job, "events"), _parse_events, query=query)


def wait(
    job: str, *, timeout_s: float | None = None, on_event: Callable[[JobEvent], object] | None = None
) -> Steps[Job]:
    """Wait until a job has ended, however: look at ``state`` and ``failure`` of what comes back (see ``get``).

    Args:
        job: the job's id or full name.
        timeout_s: seconds to wait; without end by default.
        on_event: called with every event in order, from the job's first one on.

    Raises:
        DeadlineExceededError: the job goes on; wait again.
        UnavailableError: the daemon has not answered for a minute.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen, last_contact = 0, time.monotonic()
    while True:
        left = LONGEST_POLL_S if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            current = yield from _poll(job, min(left, EVENT_POLL_S if on_event else LONGEST_POLL_S))
            if on_event:
                seen = yield from _deliver(job, seen, on_event)
            last_contact = time.monotonic()
        except FwError as error:
            if error.code != "unavailable" or time.monotonic() - last_contact > PATIENCE_S:
                raise
            yield Pause(1.0)
            continue
        if current.state.ended:
            return current
        if deadline is not None and time.monotonic() >= deadline:
            raise FwError(
                "deadline_exceeded",
                f"Job '{current.id}' is still {current.state.value} after {timeout_s:g} s ({_progress(current)})",
                hint=f"fw job wait {current.id}",
            )


def raise_if_failed(job: Job) -> None:
    """Raise ``job_failed`` (or ``cancelled``) with the job's typed reason unless it completed."""
    if job.state is JobState.COMPLETED:
        return
    if job.state is JobState.CANCELLED:
        raise CancelledError("cancelled", f"Job '{job.id}' was cancelled", hint=f"fw job resume {job.id}")
    failure = job.failure
    message = f"{failure.code}: {failure.message}" if failure else f"state {job.state.value}"
    raise JobFailedError(
        "job_failed",
        f"Job '{job.id}' failed with {message}",
        not_done=failure.not_done if failure else "",
        hint=(failure.hint if failure else "") or f"fw job logs {job.id}",
        retryable=failure.retryable if failure else None,
        details={"failure": failure.to_wire()} if failure else None,
    )


def _poll(job: str, wait_s: float) -> Call[Job]:
    """Long poll; the read timeout leaves the server time to answer."""
    query = {"timeoutS": round(wait_s, 3)}
    return Call("GET", item_path(COLLECTION, job, "wait"), job_from_wire, query=query, timeout_s=wait_s + 30)


def _deliver(job: str, seen: int, on_event: Callable[[JobEvent], object]) -> Steps[int]:
    while True:
        batch = yield from past_events(job, after=seen)
        for event in batch:
            on_event(event)
            seen = event.seq
        if not batch:
            return seen


def _rest(job: str, seen: int) -> Steps[list[JobEvent] | None]:
    """The events behind ``seen`` of a job that has ended or was deleted; None while it goes on."""
    try:
        if not (yield from get(job)).state.ended:
            return None
        events: list[JobEvent] = []
        yield from _deliver(job, seen, events.append)
        return events
    except FwError as error:
        if error.code != "not_found":
            raise
        return []


def _progress(job: Job) -> str:
    return f"{job.progress.done}/{job.progress.total} {job.progress.unit}"


def _parse_events(body: Any) -> list[JobEvent]:
    return [JobEvent.model_validate(event) for event in body["events"]]


def _decode_event(event: ServerSentEvent) -> list[JobEvent]:
    return [JobEvent.model_validate(json.loads(event.data))]

"""The client that commands use, and the small things that several of them do with it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from fw_sdk.cli.output import Columns, emit_list, emit_one, hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fw_sdk.client import Client
    from fw_sdk.types import Job


def connect() -> Client:
    """A client of ``FW_BASE_URL``, else of the home's daemon; ``unavailable`` if none runs."""
    from fw_sdk.client import Client

    return Client()


def show_some(items: Iterable[Any], columns: Columns, limit: int) -> None:
    """The first ``limit`` of a listing as a table."""
    emit_list(islice(items, limit), columns)


def settle(
    client: Client, job_id: str, again: Callable[[], Any], *, wait: bool, timeout_s: float | None = None
) -> None:
    """Show what ``again`` fetches: at once with a hint how to wait, or after the job has ended.

    Raises:
        FwError: ``job_failed`` or ``cancelled``, after the record was shown.
    """
    from fw_sdk.cli.progress import follow_job, follow_pipeline, reporter
    from fw_sdk.operations.jobs import raise_if_failed
    from fw_sdk.types import JobKind

    if not wait:
        emit_one(again(), job_id)
        hint(f"fw job wait {job_id}")
        return
    hint(f"waiting for {job_id}, which goes on if you stop waiting")
    with reporter() as show:
        kind = client.jobs.get(job_id).kind
        follow = follow_pipeline if kind is JobKind.PIPELINE else follow_job
        ended: Job = follow(client, job_id, show, timeout_s=timeout_s)
    emit_one(again(), job_id)
    raise_if_failed(ended)

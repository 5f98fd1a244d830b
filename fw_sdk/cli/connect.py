"""The client that commands use, and the small things that several of them do with it."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from fw_sdk.cli.output import Columns, emit_list, emit_one, emit_report, hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fw_sdk.client import Client
    from fw_sdk.results.report import Report
    from fw_sdk.types import Job


def connect() -> Client:
    """A client of ``FW_BASE_URL``, else of the home's daemon; ``unavailable`` if none runs."""
    from fw_sdk.client import Client

    return Client()


def show_some(items: Iterable[Any], columns: Columns, limit: int) -> None:
    """The first ``limit`` of a listing as a table."""
    emit_list(islice(items, min(limit, sys.maxsize)), columns)


def show_job(client: Client, job_id: str) -> None:
    """Show a job as its kind is shown: a pipeline and an evaluation as the page of their result."""
    job = whole(client, job_id)
    report = report_of(job)
    if report is None:
        emit_one(job, job.id)
    else:
        emit_report(job, report, job.id)


def whole(client: Client, job_id: str) -> Job:
    """The job with the fields of its kind."""
    from fw_sdk.types import JobKind

    job = client.jobs.get(job_id)
    groups = {
        JobKind.PIPELINE: client.pipelines.get,
        JobKind.EVALUATE: client.evaluations.get,
        JobKind.FINETUNE: client.finetunes.get,
    }
    return groups[job.kind](job.id) if job.kind in groups else job


def report_of(job: Job) -> Report | None:
    """The report on a pipeline or evaluation; None for other jobs, which have no score."""
    from fw_sdk.results.report import report_on, report_on_evaluation
    from fw_sdk.types import Evaluation, Pipeline

    if isinstance(job, Pipeline):
        return report_on(job)
    return report_on_evaluation(job) if isinstance(job, Evaluation) else None


def settle(
    client: Client,
    job_id: str,
    again: Callable[[], Any] | None = None,
    *,
    wait: bool,
    timeout_s: float | None = None,
) -> None:
    """Show the job, or what ``again`` fetches: at once with a hint how to wait, or after the job has ended.

    Raises:
        FwError: ``job_failed`` or ``cancelled``, after the record was shown.
    """
    from fw_sdk.cli.progress import follow_job, follow_pipeline, reporter
    from fw_sdk.operations.jobs import raise_if_failed
    from fw_sdk.types import JobKind

    if not wait:
        emit_one(again() if again else whole(client, job_id), job_id)
        hint(f"fw job wait {job_id}")
        return
    hint(f"waiting for {job_id}, which goes on if you stop waiting")
    with reporter() as show:
        kind = client.jobs.get(job_id).kind
        follow = follow_pipeline if kind is JobKind.PIPELINE else follow_job
        ended: Job = follow(client, job_id, show, timeout_s=timeout_s)
    if again:
        emit_one(again(), job_id)
    else:
        show_job(client, job_id)
    raise_if_failed(ended)

"""``fw job``: every job, whatever its kind."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fw_sdk.cli.app import command, group
from fw_sdk.cli.commands.deletion import add_delete
from fw_sdk.cli.connect import connect, settle, show_job, show_some
from fw_sdk.cli.output import Format, emit_list, emit_one, settings

COLUMNS = {
    "id": lambda job: job.id,
    "kind": lambda job: job.kind.value,
    "state": lambda job: job.state.value.removeprefix("JOB_STATE_"),
    "percent": lambda job: job.progress.percent,
    "created": lambda job: job.create_time,
    "failure": lambda job: job.failure.code if job.failure else "",
}
EVENT_COLUMNS = {
    "seq": lambda event: event.seq,
    "time": lambda event: event.time,
    "type": lambda event: event.type,
    "data": lambda event: event.data,
}

JobId = Annotated[str, typer.Argument(help="The job's id.")]
Limit = Annotated[int, typer.Option(min=1, help="Show at most N.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    noun = group("Jobs of every kind: pulls, fine-tunes, evaluations, pipelines.")
    app.add_typer(noun, name="job")
    command(noun, "list")(list_jobs)
    command(noun, "show")(show)
    command(noun, "wait")(wait)
    command(noun, "cancel")(cancel)
    command(noun, "resume")(resume)
    command(noun, "logs")(logs)
    command(noun, "events")(events)
    add_delete(noun, "job")


def list_jobs(limit: Limit = 50) -> None:
    """Jobs, newest first."""
    show_some(connect().jobs.list(), COLUMNS, limit)


def show(job: JobId) -> None:
    """One job with its progress, result or failure."""
    show_job(connect(), job)


def wait(
    job: JobId,
    timeout: Annotated[float | None, typer.Option(min=0, help="Stop waiting after N seconds; the job goes on.")] = None,
) -> None:
    """Wait until a job has ended. Exit code 0 completed, 7 the wait timed out, 8 failed or cancelled."""
    client = connect()
    settle(client, client.jobs.get(job).id, wait=True, timeout_s=timeout)


def cancel(job: JobId) -> None:
    """Stop a job; what it finished stays."""
    emit_one(connect().jobs.cancel(job))


def resume(job: JobId) -> None:
    """Start a failed or cancelled job again from what it kept."""
    emit_one(connect().jobs.resume(job))


def logs(
    job: JobId,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Show the last N lines.")] = 100,
) -> None:
    """The end of a job's log."""
    found = connect().jobs.logs(job, lines=lines)
    if settings.format is Format.JSON:
        emit_list(found, {})
        return
    for line in found:
        typer.echo(line)


def events(
    job: JobId,
    after: Annotated[int, typer.Option(min=0, help="Show only events after this number.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until the job ends.")] = False,
) -> None:
    """A job's events in order. With --format json one object a line."""
    client = connect()
    if not follow and settings.format is not Format.JSON:
        emit_list(client.jobs.past_events(job, after=after), EVENT_COLUMNS)
        return
    for event in client.jobs.events(job, after=after) if follow else client.jobs.past_events(job, after=after):
        if settings.format is Format.JSON:
            typer.echo(json.dumps(event.to_wire(), ensure_ascii=False))
        else:
            typer.echo(f"{event.seq}\t{event.time.isoformat()}\t{event.type}\t{json.dumps(event.data)}")

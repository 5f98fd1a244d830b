"""The four formats: the same data, for people, agents, programs and pipes."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_sdk.cli import output, progress
from fw_sdk.cli.output import Format, choose_format, emit_list, emit_one, settings, table
from fw_sdk.types import Job, JobKind, Progress, resource_name

JOB = Job(name=resource_name("jobs", "j1"), kind=JobKind.PULL, progress=Progress(done=1, total=3, unit="rows"))
COLUMNS = {"id": lambda job: job.id, "done": lambda job: job.progress.done, "created": lambda job: job.create_time}


@pytest.fixture
def written(capsys):
    def write(format, emit, *arguments):
        settings.format = format
        emit(*arguments)
        return capsys.readouterr().out

    yield write
    settings.format = Format.AGENT


def test_a_list_in_every_format(written):
    assert json.loads(written(Format.JSON, emit_list, [JOB, JOB], COLUMNS)) == [JOB.to_wire()] * 2
    assert written(Format.QUIET, emit_list, [JOB, JOB], COLUMNS) == "j1\nj1\n"
    header, line = written(Format.AGENT, emit_list, [JOB], COLUMNS).splitlines()
    assert header.split("\t") == list(COLUMNS)
    assert line.split("\t") == ["j1", "1", JOB.create_time.isoformat()]
    assert "j1" in written(Format.HUMAN, emit_list, [JOB], COLUMNS)


def test_an_empty_list_is_still_data(written):
    assert written(Format.JSON, emit_list, [], COLUMNS) == "[]\n"
    assert written(Format.AGENT, emit_list, [], COLUMNS) == "id\tdone\tcreated\n"
    assert written(Format.QUIET, emit_list, [], COLUMNS) == written(Format.HUMAN, emit_list, [], COLUMNS) == ""


def test_one_thing_in_every_format(written):
    assert json.loads(written(Format.JSON, emit_one, JOB)) == JOB.to_wire()
    assert written(Format.QUIET, emit_one, JOB) == "j1\n"
    lines = dict(line.split("=", 1) for line in written(Format.AGENT, emit_one, JOB).splitlines())
    assert lines["progress.total"] == "3" and lines["kind"] == "pull" and lines["name"].endswith("/j1")


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_agent_rows_stay_one_line_and_can_be_read_back(cells):
    written = [output._exact(cell) for cell in cells]
    assert not any(mark in "".join(written) for mark in "\t\n\r")
    escapes = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}
    for cell, text in zip(cells, written, strict=True):
        pieces = iter(text)
        assert "".join(escapes[next(pieces)] if piece == "\\" else piece for piece in pieces) == cell


@given(st.lists(st.tuples(st.text(st.characters(categories=["L"]), max_size=80), st.integers()), max_size=5))
def test_tables_are_aligned(rows):
    lines = table(["name", "n"], [list(row) for row in rows])
    assert len(lines) == len(rows) + 2
    assert all(len(line) <= len(lines[1]) for line in lines)


def test_the_format_is_the_options_then_the_environments_then_the_readers(monkeypatch):
    monkeypatch.setenv("FW_FORMAT", "quiet")
    assert choose_format("json") is Format.JSON and choose_format(None) is Format.QUIET
    monkeypatch.delenv("FW_FORMAT")
    assert choose_format(None) is Format.AGENT
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for name in output.AGENT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert choose_format("auto") is Format.HUMAN
    monkeypatch.setenv("CLAUDECODE", "1")
    assert choose_format("auto") is Format.AGENT


def test_times_are_exact_for_agents():
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert output._exact(moment) == "2026-01-02T03:04:05.000678+00:00"


def test_a_task_that_failed_is_not_called_done(capsys):
    with progress.Lines() as lines:
        lines.finish("check the rows", "no rows", how="failed")
        lines.finish("deploy", how="skipped")
    assert capsys.readouterr().err == "check the rows: failed: no rows\ndeploy: skipped\n"


def test_progress_that_is_said_again_says_for_how_long(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with progress.Lines() as lines:
        lines.update("fine-tune", 0, 0)
        lines.update("fine-tune", 0, 0)
        lines.update("fine-tune", 1, 2, "steps")
    first, again, other = capsys.readouterr().err.splitlines()
    assert first == "fine-tune" and re.fullmatch(r"fine-tune \(\d+ s so far\)", again)
    assert other == "fine-tune: 1/2 steps"


def test_progress_lines_are_throttled(capsys):
    with progress.Lines() as lines:
        for done in range(1000):
            lines.update("fine-tune", done, 1000, "steps")
        lines.finish("fine-tune")
    written = capsys.readouterr()
    assert written.out == "" and len(written.err.splitlines()) == 2
    assert written.err.startswith("fine-tune: 0/1000 steps\nfine-tune: done in 0.")

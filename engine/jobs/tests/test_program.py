"""What a job program reports: how long it will still take, and what it has to say."""

from engine.jobs import program
from engine.jobs.files import read_lines
from engine.jobs.program import JobContext
from fw_sdk.types import RequestBody


def test_the_time_left_follows_the_pace_since_the_first_report(tmp_path, monkeypatch):
    clock = iter([100.0, 102.0, 104.0, 104.0, 105.0, 109.0])
    context = JobContext(tmp_path, RequestBody())
    monkeypatch.setattr(program.time, "monotonic", lambda: next(clock))
    for done, total in ((27, 67), (28, 67), (29, 67), (1, 10), (2, 10), (10, 10)):  # a resumed part, then another one
        context.progress(done, total)
    told = [event["data"].get("etaS") for event, _ in read_lines(tmp_path / "events.jsonl")]
    assert told == [None, 2.0 * 39, 2.0 * 38, None, 1.0 * 8, 0.0]


def test_what_a_program_says_is_an_event_and_a_line_of_its_log(tmp_path, capsys):
    context = JobContext(tmp_path, RequestBody())
    context.message("goes on from the checkpoint behind step 27 of 67")
    context.warning("3 rows are left out")
    kinds = [event["type"] for event, _ in read_lines(tmp_path / "events.jsonl")]
    assert kinds == ["message", "warning"]
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("Z goes on from the checkpoint behind step 27 of 67")
    assert second.endswith("Z warning: 3 rows are left out")

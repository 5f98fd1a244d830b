"""Records of real attempts are bounded, without paths of the machine, and what the page shows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tests.agents import fresh
from tests.agents.exchange import Exchange
from tests.agents.page import table_under
from tests.agents.session import Session

LOST = "There is no file '/data/w/x' in /data/w; see /data/h/logs and /tmp/elsewhere.txt"
SESSION = Session("/data/s", "/data/h", "/data/w", 1, "/data/socket")


def exchange(name: str, *, method: str = "call", error: str = "", at: int = 0) -> Exchange:
    when = f"2026-01-01T00:00:{at:02d}.000+00:00"
    return Exchange(when, method, name, {}, error or "{}", bool(error), 2.0, 10)


def test_records_are_well_formed() -> None:
    found = fresh.records()
    assert [int(record.id[:2]) for record in found] == list(range(1, len(found) + 1))
    for record in found:
        assert record.outcome in fresh.OUTCOMES and record.task and record.note
        assert record.calls + record.waits > 0 and record.tokens > 0
        whole = json.dumps(asdict(record), ensure_ascii=False)
        assert len(whole) < 16_000 and not fresh.PATH.search(whole), record.id
        assert all(set(error) == {"call", "said", "next", "recovered_in"} for error in record.errors)


def test_the_page_shows_the_records() -> None:
    assert table_under(fresh.HEADING) == fresh.table(fresh.records())


def test_a_trace_is_condensed() -> None:
    trace = [
        exchange("", method="tools"),
        exchange("dataset", error=f"{LOST}\nnext: overview() in /data/w\n{{}}", at=5),
        exchange("overview", at=10),
        exchange("dataset", at=20),
        exchange("job_wait", at=30),
        exchange("job_wait", at=40),
        exchange("generate", error="no", at=50),
    ]
    record = fresh.condense(trace, SESSION, id="01-x", task="do /data/w/y", outcome="success", note="n" * 9_999)
    assert (record.calls, record.waits, record.tokens, record.seconds) == (4, 2, 60, 47.0)
    assert record.steps == ["dataset", "overview", "dataset", "job_wait x2", "generate"]
    assert [error["recovered_in"] for error in record.errors] == [2, None]
    said = "There is no file '<workspace>/x' in <workspace>; see <home>/logs and <path>"
    assert (record.errors[0]["said"], record.errors[0]["next"]) == (said, "overview() in <workspace>")
    assert record.errors[1]["next"] == "" and record.task == "do <workspace>/y"
    assert len(record.note) == fresh.MAX_NOTE_CHARS
    assert "| success | 4 | 2 | 60 | 2: 2, never | 1 |" in fresh.table([record])


def test_a_session_becomes_a_record(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fresh, "FOLDER", tmp_path / "fresh")
    (tmp_path / "session.json").write_text(json.dumps(asdict(SESSION) | {"folder": str(tmp_path)}))
    (tmp_path / "trace.jsonl").write_text(exchange("overview").to_json() + "\n")
    first = fresh.add(tmp_path, "Make it emit valid calls, please.", "success", "well", "")
    second = fresh.add(tmp_path, "Again.", "failure", "ill", "Once more!")
    assert (first.name, second.name) == ("01-make-it-emit-valid-calls-please.json", "02-once-more.json")
    assert [record.outcome for record in fresh.records()] == ["success", "failure"]

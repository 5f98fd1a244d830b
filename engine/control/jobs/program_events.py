"""Reading what job programs report: events in batches, tolerant of torn lines and of nonsense."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.control.store import ProgramEvent
from engine.jobs.files import read_lines
from fw_sdk.types import Progress

TYPES = frozenset({"progress", "metric", "message", "warning"})
BATCH = 500


def read_program_events(path: Path, offset: int) -> Iterator[tuple[list[ProgramEvent], int]]:
    """Batches of events from byte ``offset`` on, each with the offset behind it; other lines are passed over."""
    batch: list[ProgramEvent] = []
    behind = offset
    for value, behind in read_lines(path, offset):
        event = _as_event(value)
        if event is not None:
            batch.append(event)
        if len(batch) >= BATCH:
            yield batch, behind
            batch, offset = [], behind
    if behind > offset:
        yield batch, behind


def last_progress(events: list[ProgramEvent]) -> Progress | None:
    """The newest progress among events."""
    for event in reversed(events):
        if event.type == "progress":
            try:
                return Progress.model_validate(event.data)
            except ValidationError:
                continue
    return None


def _as_event(value: Any) -> ProgramEvent | None:
    if not isinstance(value, dict) or value.get("type") not in TYPES or not isinstance(value.get("data"), dict):
        return None
    try:
        time = datetime.fromisoformat(str(value.get("time"))).isoformat()
    except ValueError:
        time = datetime.now(UTC).isoformat()
    return ProgramEvent(time, value["type"], finite(value["data"]))


def finite(value: Any) -> Any:
    """``value`` with null for what JSON has no number for (a diverged loss), so that every client can read it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list) else value

"""The tables of ``docs/agent-experience.md``: written from the records, and compared with them by tests."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "agent-experience.md"


def table_under(heading: str) -> str:
    """The first table below a heading of the page."""
    found = _place(heading).search(PAGE.read_text(encoding="utf-8"))
    assert found is not None, f"{PAGE.name} has no table under '{heading}'"
    return found["table"].strip()


def put_table(heading: str, table: str) -> None:
    """Write ``table`` in the place of the one below ``heading``."""
    text = PAGE.read_text(encoding="utf-8")
    new, count = _place(heading).subn(lambda found: f"{found['before']}{table}\n", text, count=1)
    assert count == 1, f"{PAGE.name} has no table under '{heading}'"
    PAGE.write_text(new, encoding="utf-8")


def _place(heading: str) -> re.Pattern[str]:
    before = rf"^## {re.escape(heading)}\n(?:(?!^## |^\|).*\n)*"
    return re.compile(rf"(?P<before>{before})(?P<table>(?:^\|.*\n)+)", re.MULTILINE)

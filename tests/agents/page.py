"""The tables of the pages on agents: written from the records, and compared with them by tests."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (DOCS / "agent-experience.md", DOCS / "agent-tasks.md")


def table_under(heading: str) -> str:
    """The first table below a heading of the pages."""
    found = _place(heading).search(_page_with(heading).read_text(encoding="utf-8"))
    assert found is not None, f"no page has a table under '{heading}'"
    return found["table"].strip()


def put_table(heading: str, table: str) -> None:
    """Write ``table`` in the place of the one below ``heading``."""
    page = _page_with(heading)
    text = page.read_text(encoding="utf-8")
    new, count = _place(heading).subn(lambda found: f"{found['before']}{table}\n", text, count=1)
    assert count == 1, f"no page has a table under '{heading}'"
    page.write_text(new, encoding="utf-8")


def _page_with(heading: str) -> Path:
    found = [page for page in PAGES if f"\n## {heading}\n" in page.read_text(encoding="utf-8")]
    assert found, f"no page has the heading '{heading}'"
    return found[0]


def _place(heading: str) -> re.Pattern[str]:
    before = rf"^## {re.escape(heading)}\n(?:(?!^## |^\|).*\n)*"
    return re.compile(rf"(?P<before>{before})(?P<table>(?:^\|.*\n)+)", re.MULTILINE)

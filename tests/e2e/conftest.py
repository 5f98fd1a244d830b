"""Places for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place of the test's own; the daemon is not started."""
    found = Place.prepare(tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path) -> Iterator[Place]:
    """A place with a running daemon and the base model, for tests that leave it as they found it."""
    found = Place.prepare(tmp_path_factory.mktemp("shared"))
    try:
        found.up()
        found.pull(starter_gguf)
        yield found
    finally:
        found.close()

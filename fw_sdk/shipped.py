"""The examples that are shipped with fw.

They live in ``examples/`` of the repository; ``fw_sdk/examples`` is a link to that folder, which a wheel holds as
real files. So one path serves a checkout and an installation alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fw_sdk.types import FwError


@dataclass(frozen=True)
class Example:
    """Rows to train on, rows to score on, and what scores them."""

    name: str
    train: Path
    heldout: Path
    evaluator: Path


def load_example(name: str) -> Example:
    """The example's files; ``internal`` if this installation lacks them."""
    folder = Path(str(files("fw_sdk"))) / "examples" / name
    found = Example(name, folder / "train.jsonl", folder / "heldout.jsonl", folder / "evaluator.py")
    missing = [path for path in (found.train, found.heldout, found.evaluator) if not path.is_file()]
    if missing:
        raise FwError(
            "internal", f"this installation lacks {missing[0]}", not_done="nothing was started", hint="install fw again"
        )
    return found

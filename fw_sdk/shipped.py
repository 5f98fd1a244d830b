"""The examples that are shipped with fw.

They live in ``examples/`` of the repository; ``fw_sdk/examples`` is a link to that folder, which a wheel holds as
real files. So one path serves a checkout and an installation alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fw_sdk.exceptions import typed
from fw_sdk.types import FwError, not_found

FILES = ("train.jsonl", "heldout.jsonl", "evaluator.py")


@dataclass(frozen=True)
class Example:
    """Rows to train on, rows to score on, and what scores them."""

    name: str
    train: Path
    heldout: Path
    evaluator: Path

    @property
    def purpose(self) -> str:
        """A line on what it teaches: the first paragraph of its README."""
        lines = self.evaluator.with_name("README.md").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line and not line.startswith("#"))

    def copy(self, folder: Path) -> Example:
        """Write the three files into ``folder``; files that are there and the same stay.

        Raises:
            AlreadyExistsError: another file stands where one of them belongs; nothing was written.
        """
        wanted = {folder / name: (self.train.with_name(name)).read_bytes() for name in FILES}
        for path, content in wanted.items():
            if path.exists() and (not path.is_file() or path.read_bytes() != content):
                message = f"{path} is there already, with other content."
                hint = "name another folder, or remove that file"
                raise typed(FwError("already_exists", message, not_done="nothing was written", hint=hint))
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in wanted.items():
            path.write_bytes(content)
        return Example(self.name, *wanted)


def examples() -> list[Example]:
    """All of them, by name."""
    return [load_example(name) for name in _names()]


def load_example(name: str) -> Example:
    """The example's files as they were installed; ``not_found`` names the nearest, ``internal`` a file that lacks."""
    folder = _folder() / name
    if name not in _names():
        raise typed(not_found("example", name, _names(), hint="fw example lists them"))
    missing = [folder / file for file in FILES if not (folder / file).is_file()]
    if missing:
        message = f"this installation lacks {missing[0]}"
        raise typed(FwError("internal", message, not_done="nothing was started", hint="install fw again"))
    return Example(name, *(folder / file for file in FILES))


def _names() -> list[str]:
    return sorted(path.parent.name for path in _folder().glob("*/evaluator.py"))


def _folder() -> Path:
    return Path(str(files("fw_sdk"))) / "examples"

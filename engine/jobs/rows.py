"""Rows of a stored dataset and its deterministic split, as every reader of a dataset sees them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fw_sdk.types import FwError, Split

if TYPE_CHECKING:
    from engine.jobs.specs import RowsRef


@dataclass(frozen=True)
class Row:
    """One row: its line number (from 1), and its JSON object."""

    line: int
    data: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation."""
        return list(self.data["messages"])

    @property
    def tools(self) -> Any:
        """The tools that the row offers, None if none."""
        return self.data.get("tools")

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The conversation without the assistant message that ends it, if one does."""
        messages = self.messages
        return messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages

    @property
    def ground_truth(self) -> Any:
        """The row's ``ground_truth``, or else its own last assistant message's content, or the calls it makes."""
        if "ground_truth" in self.data:
            return self.data["ground_truth"]
        last = self.messages[-1] if self.messages else {}
        return last.get("content") or last.get("tool_calls") if last.get("role") == "assistant" else None


def canonical(value: Any) -> bytes:
    """One byte string per JSON value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def prompt_key(row: Row) -> str:
    """Digest of what the model is asked in a row; equal keys mean the same question."""
    return hashlib.sha256(canonical(row.prompt)).hexdigest()


def answer_key(row: Row) -> str:
    """Digest of what a row wants for an answer: its ground truth, and the calls of a last message that makes some."""
    last = row.messages[-1]
    calls = last.get("tool_calls") if "ground_truth" not in row.data and last.get("role") == "assistant" else None
    return hashlib.sha256(canonical([row.ground_truth, calls])).hexdigest()


def is_heldout(row: Row, fraction: float, seed: int) -> bool:
    """Which side of the split a row is on: decided by its prompt alone, so duplicates never straddle it."""
    return _held_out(prompt_key(row), fraction, seed)


def in_split(split: Split, fraction: float, seed: int) -> Callable[[str], bool]:
    """Whether a row with a given ``prompt_key`` is on this side of the split."""
    if split is Split.ALL:
        return lambda _key: True
    return lambda key: _held_out(key, fraction, seed) == (split is Split.HELDOUT)


def _held_out(key: str, fraction: float, seed: int) -> bool:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def read_rows(path: Path, split: Split = Split.ALL, *, heldout_fraction: float = 0.1, split_seed: int = 0) -> list[Row]:
    """The rows of one side of a validated JSONL file, in file order."""
    with path.open(encoding="utf-8") as file:
        rows = [Row(number, json.loads(line)) for number, line in enumerate(file, 1) if line.strip()]
    if split is Split.ALL:
        return rows
    wanted = in_split(split, heldout_fraction, split_seed)
    return [row for row in rows if wanted(prompt_key(row))]


def referenced_rows(reference: RowsRef) -> list[Row]:
    """The rows that a reference names; ``failed_precondition`` if the file is not what its digest says any more."""
    path = Path(reference.path)
    with path.open("rb") as file:
        found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if found != reference.digest:
        raise FwError(
            "failed_precondition",
            f"The rows of '{reference.name}' changed on the disk: {path} is {found[:19]}, not {reference.digest[:19]}.",
            not_done="nothing was computed from other rows",
            hint="upload the rows again under another id, and start anew with that",
        )
    fraction, seed = reference.heldout_fraction, reference.split_seed
    return read_rows(path, reference.split, heldout_fraction=fraction, split_seed=seed)

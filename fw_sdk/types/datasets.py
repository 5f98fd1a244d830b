"""Datasets as clients see them: what was found in the rows, and how they are split."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any

from pydantic import Field

from fw_sdk.types.base import RequestBody, Resource, Wire


class Split(StrEnum):
    """Which rows of a dataset: all, or one side of its deterministic split."""

    ALL = "all"
    TRAIN = "train"
    HELDOUT = "heldout"


class DatasetState(StrEnum):
    """UPLOADING until rows are validated; READY and immutable afterwards."""

    UPLOADING = "UPLOADING"
    READY = "READY"


class RowProblem(Wire):
    """One thing wrong with one line.

    Attributes:
        line: its number, from 1.
        code: names the kind of problem.
        message: says it in a sentence.
        severity: ``error`` (the row cannot be used) or ``warning``.
        quotes: whether the message has words of the row in it, which are data.
        beginning: of the line.
    """

    line: int
    code: str
    message: str
    severity: str = "error"
    quotes: bool = False
    beginning: str = ""


class TokenStats(Wire):
    """Lengths of rendered rows in tokens of one model's tokenizer. ``histogram`` is [upper bound, rows]."""

    model: str
    total: int
    min: int
    median: int
    p95: int
    max: int
    histogram: list[tuple[int, int]] = Field(default_factory=list)


class DatasetReport(Wire):
    """What validation found. Line numbers count from 1, as an editor shows them.

    Of ``rows``, ``valid_rows`` have no error and can be used; ``duplicate_rows`` of these repeat an earlier one.
    """

    rows: int = 0
    valid_rows: int = 0
    duplicate_rows: int = 0
    problems: list[RowProblem] = Field(default_factory=list)
    problems_omitted: int = 0
    tokens: TokenStats | None = None
    train_rows: int = 0
    heldout_rows: int = 0

    @property
    def ok(self) -> bool:
        """Whether every row can be used."""
        return not any(problem.severity == "error" for problem in self.problems) and self.rows > 0


class Dataset(Resource):
    """Validated JSONL, one conversation a row."""

    state: DatasetState = DatasetState.UPLOADING
    format: str = "CHAT"
    digest: str | None = None
    example_count: str = "0"
    estimated_token_count: str | None = None
    heldout_fraction: float = 0.1
    split_seed: int = 0
    report: DatasetReport | None = None
    bytes: int = 0

    @property
    def identity(self) -> str | None:
        """A digest of the rows and of how they are split: the same rows, split otherwise, train and score others."""
        if self.digest is None:
            return None
        rule = f"{self.digest} {self.heldout_fraction!r} {self.split_seed}"
        return f"sha256:{hashlib.sha256(rule.encode()).hexdigest()}"


class DatasetFields(RequestBody):
    """The ``dataset`` part of a create request."""

    display_name: str | None = None
    format: str = "CHAT"
    heldout_fraction: float = Field(default=0.1, ge=0.0, le=0.5)
    split_seed: int = 0
    example_count: str | None = None
    user_uploaded: dict[str, Any] | None = None


class CreateDataset(RequestBody):
    """Body of ``POST /datasets``."""

    dataset_id: str
    dataset: DatasetFields = Field(default_factory=DatasetFields)


class OverlapPair(Wire):
    """A row, and the rows of the other side that ask the same.

    Attributes:
        line: of the row.
        other_line: the first such line of the other side.
        also_other_lines: the further ones.
        prompt: the beginning of the prompt's last message.
        same_answer: whether all of them want the same answer.
    """

    line: int
    other_line: int
    also_other_lines: list[int] = Field(default_factory=list)
    prompt: str = ""
    same_answer: bool = True


class Overlap(Wire):
    """Rows of one side whose prompts also stand on the other. ``pairs`` has the first thousand of ``shared``."""

    rows: int
    other_rows: int
    shared: int
    pairs: list[OverlapPair] = Field(default_factory=list)
    pairs_omitted: int = 0

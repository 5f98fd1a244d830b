"""The rows already scored by a job, kept on disk as they come, so that a restarted attempt asks only for the rest.

``scores.jsonl`` holds one ``RowScore`` a line, with the cost of the row beside it; ``scores.key.json`` says what the
rows were scored with. Scores made with anything else are thrown away.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.evals.asking import Identity
from engine.jobs.files import append_line, read_json, read_lines, write_atomic, write_json
from engine.jobs.rows import canonical
from engine.jobs.specs import EvaluateSpec
from fw_sdk.types import RowScore

KEY_FIELDS = {"rows", "model", "evaluator_digest", "entry_function", "inference", "few_shot", "limit", "row_timeout_s"}


@dataclass(frozen=True)
class ScoredRow:
    """One row's score, what kind of error it has if any, its cost in tokens, and the job's clock when it was scored."""

    score: RowScore
    error_kind: str | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    clock_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The row score's own fields, and ours beside them."""
        ours = {key: value for key, value in asdict(self).items() if key != "score" and value is not None}
        return {**self.score.to_wire(), "_cost": ours}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ScoredRow:
        """Inverse of ``to_json``."""
        return cls(RowScore.model_validate(fields), **fields["_cost"])


class ScoreLog:
    """Scored rows by line, in memory and on disk.

    Attributes:
        rows: what is scored so far.
        identity: what answered so far; None before the first answer.
    """

    def __init__(self, job_dir: Path, spec: EvaluateSpec) -> None:
        self._scores, self._key_file = job_dir / "scores.jsonl", job_dir / "scores.key.json"
        self._key = hashlib.sha256(canonical(spec.model_dump(mode="json", include=KEY_FIELDS))).hexdigest()
        self.rows: dict[int, ScoredRow] = {}
        self.identity: Identity | None = None
        stored = read_json(self._key_file)
        if stored is None or stored["key"] != self._key:
            self.clear()
            return
        self.identity = Identity(**stored["identity"])
        self.rows = {row.score.line: row for row in map(ScoredRow.from_json, _values(self._scores))}

    def clear(self) -> None:
        """Forget everything: the next attempt starts over."""
        self._key_file.unlink(missing_ok=True)
        self._scores.unlink(missing_ok=True)
        self.rows, self.identity = {}, None

    def identify(self, identity: Identity) -> None:
        """Record what answers, before the first row is kept."""
        write_json(self._key_file, {"key": self._key, "identity": asdict(identity)})
        self.identity = identity

    def add(self, row: ScoredRow) -> None:
        """Keep one row."""
        append_line(self._scores, row.to_json())
        self.rows[row.score.line] = row

    def finish(self) -> list[RowScore]:
        """Put the file in row order; returns the scores in that order."""
        ordered = sorted(self.rows.values(), key=lambda row: row.score.index)
        lines = [json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in ordered]
        write_atomic(self._scores, "".join(lines).encode())
        return [row.score for row in ordered]

    @property
    def clock_s(self) -> float:
        """How long earlier attempts took until their last row."""
        return max((row.clock_s for row in self.rows.values()), default=0.0)

    def failures(self) -> dict[str, dict[str, Any]]:
        """Count and first example per kind of row error."""
        failed = [row for row in sorted(self.rows.values(), key=lambda row: row.score.index) if row.error_kind]
        counts = Counter(row.error_kind for row in failed)
        first = {row.error_kind: row.score for row in reversed(failed)}
        return {
            str(kind): {"count": count, "line": first[kind].line, "error": first[kind].error}
            for kind, count in counts.items()
        }


def _values(path: Path) -> list[dict[str, Any]]:
    return [value for value, _ in read_lines(path) if isinstance(value, dict) and "_cost" in value]

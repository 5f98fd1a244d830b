"""What a model was asked in training, known by the digest of its rows, even after those rows were deleted."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from engine.control.context import Context
from engine.control.inventory.references import dataset_path
from engine.evals.overlap import question_key
from engine.jobs.files import read_json, write_json
from engine.jobs.rows import Row, in_split, prompt_key
from engine.jobs.specs import RowsRef
from fw_sdk.types import Evaluation, FineTuningJob, JobKind, JobState, Lineage, Model, Split, resource_id
from fw_sdk.types.home import Home


def trained_questions(context: Context, model: Model) -> set[str] | None:
    """Keys (``question_key``) of the rows that a model was trained on; None if they are not known any more.

    A model that was not trained here has none.
    """
    lineage = _whole(context, model.lineage)
    if lineage is None or lineage.dataset_digest is None:
        return set()
    rows = _rows(context.home, lineage.dataset_digest)
    if rows is None:
        return None
    side = lineage.split or Split.ALL
    wanted = in_split(side, lineage.heldout_fraction or 0.0, lineage.split_seed or 0)
    return {question for _, prompt, question in rows if wanted(prompt)}


def scored_questions(home: Home, rows: RowsRef, lines: Collection[int]) -> list[str] | None:
    """Keys of what those of ``rows`` ask that stand on ``lines``; None if the rows are not known any more."""
    known = _rows(home, rows.digest)
    if known is None:
        return None
    wanted = in_split(rows.split, rows.heldout_fraction, rows.split_seed)
    return [question for line, prompt, question in known if line in lines and wanted(prompt)]


def keep_questions(context: Context, digest: str) -> None:
    """Before rows are deleted that a result rests on, keep digests of their questions; not the rows themselves."""
    taught = {model.lineage.dataset_digest for model in context.store.models.all() if model.lineage}
    completed = context.store.jobs.in_states(JobState.COMPLETED, kinds=(JobKind.EVALUATE,))
    scored = {job.dataset_digest for job in completed if isinstance(job, Evaluation)}
    if digest in taught | scored and (rows := _rows(context.home, digest)) is not None:
        write_json(_kept(context.home, digest), rows)


def _whole(context: Context, lineage: Lineage | None) -> Lineage | None:
    """A first home's lineage does not say which side of the split was trained on; its job does."""
    if lineage is None or lineage.split is not None or lineage.job is None:
        return lineage
    job = context.store.jobs.find(resource_id(lineage.job, "supervisedFineTuningJobs"))
    rows = job.spec.get("rows") if isinstance(job, FineTuningJob) else None
    if not isinstance(rows, dict):
        return lineage
    fields = {"split": rows.get("split"), "heldout_fraction": rows.get("heldoutFraction")}
    return Lineage.model_validate({**lineage.model_dump(), **fields, "split_seed": rows.get("splitSeed")})


def _rows(home: Home, digest: str) -> list[tuple[int, str, str]] | None:
    """(line, prompt key, question key) of every row with this digest."""
    path = dataset_path(home, digest)
    try:
        with path.open(encoding="utf-8") as file:
            rows = [Row(number, json.loads(line)) for number, line in enumerate(file, 1) if line.strip()]
    except FileNotFoundError:
        kept = read_json(_kept(home, digest))
        return None if kept is None else [(int(line), str(prompt), str(question)) for line, prompt, question in kept]
    return [(row.line, prompt_key(row), question_key(row)) for row in rows]


def _kept(home: Home, digest: str) -> Path:
    return dataset_path(home, digest).with_suffix(".questions.json")

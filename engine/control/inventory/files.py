"""Files by digest: a file is there as long as a record names it, whatever else happens, and goes when none does.

A record comes to name a file in the transaction that puts the file in place, and a file is removed in one that has seen
that no record names it. Both hold the write lock, so no record names a file that is gone. A deleted record is kept
aside until its file was seen to, so that a crash leaves nothing behind that nobody removes.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from engine.control.context import Context
from engine.control.inventory.questions import keep_questions
from engine.control.inventory.references import dataset_path, evaluator_path
from fw_sdk.types import Dataset, Evaluator, JobKind, Model

UPLOAD = ".upload-"
"""What names of files begin with whose content was not yet put in place."""
TRASH = ".trash-"
"""What names of folders begin with that are being removed: a later daemon goes on with it."""
ABANDONED_S = 3600.0
"""How old what an upload left behind is at least, before a later daemon removes it."""

MAKING = (JobKind.PULL, JobKind.FINETUNE)


def place(file: Path, target: Path) -> None:
    """Give a file that is on the disk its final name too; call it in the transaction that makes a record name it."""
    file.chmod(0o600)
    with suppress(FileExistsError):
        os.link(file, target)


def drop_rows(context: Context) -> None:
    """Remove the rows of deleted datasets that no dataset names any more."""
    for dataset in context.store.datasets.removed():
        if dataset.digest and dataset.digest not in context.store.datasets.digests():
            keep_questions(context, dataset.digest)

    def drop(dataset: Dataset) -> bool:
        if dataset.digest and dataset.digest not in context.store.datasets.digests():
            dataset_path(context.home, dataset.digest).unlink(missing_ok=True)
        return True

    context.store.datasets.drop_removed(drop)


def drop_sources(context: Context) -> None:
    """Remove the sources of deleted evaluators that no evaluator names any more."""

    def drop(evaluator: Evaluator) -> bool:
        if evaluator.digest not in context.store.evaluators.digests():
            evaluator_path(context.home, evaluator.digest).unlink(missing_ok=True)
        return True

    context.store.evaluators.drop_removed(drop)


def drop_weights(context: Context) -> None:
    """Remove the folders of deleted models that no model names any more.

    While a job makes a model, its program may have found a folder there that it is about to name; they stay until then.
    """
    doomed: list[Path] = []

    def drop(model: Model) -> bool:
        path = Path(model.path or "")
        ours = any(path.is_relative_to(folder) for folder in (context.home.models, context.home.adapters))
        if not ours or any(other.path == model.path for other in context.store.models.all()):
            return True
        if any(job.makes or job.kind in MAKING for job in context.store.jobs.unended()):
            return False
        with suppress(FileNotFoundError):
            doomed.append(path.rename(path.with_name(f"{TRASH}{path.name}-{time.time_ns()}")))
        return True

    context.store.models.drop_removed(drop)
    for path in doomed:
        shutil.rmtree(path, ignore_errors=True)


def clean_up(context: Context) -> None:
    """What an earlier daemon was about to remove when it ended, and what its uploads left behind."""
    for folder in (context.home.models, context.home.adapters, context.home.jobs):
        for path in folder.glob(f"{TRASH}*"):
            shutil.rmtree(path, ignore_errors=True)
    named = context.store.datasets.digests() | context.store.evaluators.digests()
    for folder in (context.home.datasets, context.home.evaluators):
        for path in folder.glob(f"{UPLOAD}*"):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                _remove_upload(path, named)
    for drop in (drop_rows, drop_sources, drop_weights):
        drop(context)


def _remove_upload(file: Path, named: set[str]) -> None:
    """Remove an abandoned upload, with the final name that it got if the transaction for that never ended."""
    for other in file.parent.iterdir():
        if other != file and other.is_file() and other.samefile(file) and f"sha256:{other.stem}" not in named:
            other.unlink()
    file.unlink()

"""Having what a loop needs: models pulled, datasets and evaluators registered, each stored once for its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fw_sdk.client import Client
from fw_sdk.exceptions import AlreadyExistsError, FailedPreconditionError, NotFoundError, typed
from fw_sdk.files import Rows, dataset_upload, evaluator_source, id_from
from fw_sdk.operations.jobs import raise_if_failed
from fw_sdk.types import Dataset, Evaluator, FwError, Model, ModelState

R = TypeVar("R")
S = TypeVar("S", Dataset, Evaluator)


def find_or_pull(client: Client, base: str | Path) -> Model:
    """The model of that id; a starter, folder or file starts to be pulled, and so does one whose pull failed."""
    try:
        model = client.models.get(str(base))
    except FwError as error:
        if error.code not in ("not_found", "invalid_argument"):
            raise
        return client.models.pull(base)
    return client.models.pull(model.source or base, id=model.id) if model.state.unmade else model


def ensure_model(client: Client, base: str | Path) -> Model:
    """The READY model of that id; a starter, folder or file is pulled first."""
    model = find_or_pull(client, base)
    if model.state is not ModelState.READY and model.job:
        raise_if_failed(client.jobs.wait(model.job.rsplit("/", 1)[-1]))
        model = client.models.get(model.id)
    return model


def ensure_dataset(client: Client, data: str | Path | Rows, *, id: str | None = None) -> Dataset:
    """A READY dataset with these rows.

    A string that is no file's path is taken for a dataset's id. Otherwise the id is the file's stem; if that is taken
    by other rows, the stem with the first eight digits of the content's hash.
    """
    known = _known(client.datasets.get, data, (".jsonl", ".json"))
    if known is not None:
        return known
    data = data if isinstance(data, str | Path) else list(data)
    upload = dataset_upload(data, not_done="no dataset was created")
    digest = _digest(upload.source)
    stem = id or id_from(Path(upload.filename).stem, "dataset")
    return _stored_once(
        "dataset", stem, digest, client.datasets.get, lambda name: client.datasets.create(data, id=name)
    )


def ensure_evaluator(client: Client, evaluator: str | Path, *, id: str | None = None) -> Evaluator:
    """An evaluator with this source; ids as in ``ensure_dataset``."""
    known = _known(client.evaluators.get, evaluator, (".py",))
    if known is not None:
        return known
    source, name = evaluator_source(evaluator, not_done="no evaluator was created")
    stem = id or id_from(name or "evaluator", "evaluator")
    digest = _digest(source.encode())
    return _stored_once(
        "evaluator", stem, digest, client.evaluators.get, lambda name: client.evaluators.create(evaluator, id=name)
    )


def _stored_once(noun: str, stem: str, digest: str, get: Callable[[str], S], create: Callable[[str], S]) -> S:
    """What has this digest under ``stem`` or ``stem-<digest>``; made under the first of them that is free.

    Other clients may take a name between looking and making: the one that was taken is looked at again.
    """
    for identifier in (stem, f"{stem[:40]}-{digest[:8]}"):
        stored = find(get, identifier)
        if stored is None or not stored.digest:
            try:
                return create(identifier)
            except (AlreadyExistsError, FailedPreconditionError):
                stored = find(get, identifier)
        if stored is not None and stored.digest == f"sha256:{digest}":
            return stored
    raise typed(
        FwError(
            "already_exists",
            f"{noun} '{identifier}' has other content",
            not_done="nothing was started",
            hint=f"give the {noun} an id of its own, or delete the stored one",
        )
    )


def _digest(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(get: Callable[[str], R], value: object, suffixes: tuple[str, ...]) -> R | None:
    """The stored resource that a string names, unless the string is or looks like a file."""
    if not isinstance(value, str) or "\n" in value or value.endswith(suffixes) or Path(value).expanduser().is_file():
        return None
    return get(value) if "/" not in value or value.startswith("accounts/") else None


def find(get: Callable[[str], R], identifier: str) -> R | None:
    """``get(identifier)``, or None if there is no such thing."""
    try:
        return get(identifier)
    except NotFoundError:
        return None

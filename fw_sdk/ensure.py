"""Having what a loop needs: models pulled, datasets and evaluators registered, each stored once for its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fw_sdk.client import Client
from fw_sdk.exceptions import NotFoundError, typed
from fw_sdk.files import Rows, dataset_upload, evaluator_source, id_from
from fw_sdk.operations.jobs import raise_if_failed
from fw_sdk.types import Dataset, DatasetState, Evaluator, FwError, Model, ModelState

R = TypeVar("R")


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
    content = upload.source.read_bytes() if isinstance(upload.source, Path) else upload.source
    digest = hashlib.sha256(content).hexdigest()
    stem = id or id_from(Path(upload.filename).stem, "dataset")
    for identifier in (stem, f"{stem[:40]}-{digest[:8]}"):
        stored = find(client.datasets.get, identifier)
        if stored is None or stored.state is DatasetState.UPLOADING:
            return client.datasets.create(data, id=identifier)
        if stored.digest == f"sha256:{digest}":
            return stored
    raise typed(FwError("already_exists", f"dataset '{identifier}' has other rows", not_done="nothing was started"))


def ensure_evaluator(client: Client, evaluator: str | Path, *, id: str | None = None) -> Evaluator:
    """An evaluator with this source; ids as in ``ensure_dataset``."""
    known = _known(client.evaluators.get, evaluator, (".py",))
    if known is not None:
        return known
    source, stem = evaluator_source(evaluator, not_done="no evaluator was created")
    digest = hashlib.sha256(source.encode()).hexdigest()
    name = id or id_from(stem or "evaluator", "evaluator")
    for identifier in (name, f"{name[:40]}-{digest[:8]}"):
        stored = find(client.evaluators.get, identifier)
        if stored is None:
            return client.evaluators.create(evaluator, id=identifier)
        if stored.digest == f"sha256:{digest}":
            return stored
    raise typed(FwError("already_exists", f"evaluator '{identifier}' has other code", not_done="nothing was started"))


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

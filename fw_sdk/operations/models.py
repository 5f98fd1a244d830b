"""Models: pulling base weights, and what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fw_sdk.calls import Call, Listing
from fw_sdk.files import local_path
from fw_sdk.operations import paths
from fw_sdk.operations.paths import collection_path
from fw_sdk.types import FwError, Model, PullEstimate, PullModel, parse_request

COLLECTION = "models"


def pull(source: str | Path, *, id: str | None = None) -> Call[Model]:
    """Start to bring base weights here; the job in ``.job`` does it.

    Args:
        source: a starter's name (``smollm2-135m``), a model of a hub (``hf:org/name``, ``hf:org/name@revision``, one
            GGUF file of many as ``hf:org/name:Q4_K_M``), or a folder or ``.gguf`` file on this machine.
        id: the model's id; the source's name by default.

    Raises:
        NotFoundError: no such starter or path.
    """
    body = _body(source, id, "nothing was pulled")
    return Call("POST", f"{collection_path(COLLECTION)}:pull", Model.model_validate, body=body)


def estimate(source: str | Path, *, id: str | None = None) -> Call[PullEstimate]:
    """What ``pull`` with the same arguments would take: bytes to fetch, room on the disk. Fetches no weights."""
    body = _body(source, id, "nothing was estimated")
    return Call("POST", f"{collection_path(COLLECTION)}:estimate", PullEstimate.model_validate, body=body)


def _body(source: str | Path, identifier: str | None, not_done: str) -> dict[str, Any]:
    text = str(source)
    if isinstance(source, Path) or _looks_local(text):
        text = str(_existing(source, not_done))
    return parse_request(PullModel, paths.present(source=text, model_id=identifier), not_done=not_done).to_wire()


def get(model: str) -> Call[Model]:
    """One model, base or adapter, by id or full name."""
    return paths.get(Model, COLLECTION, model)


def list_all(*, page_size: int = 50) -> Listing[Model]:
    """Every model, newest first."""
    return paths.listing(Model, COLLECTION, page_size)


def delete(model: str) -> Call[None]:
    """Delete a model that nothing uses."""
    return paths.delete(COLLECTION, model)


def _existing(source: str | Path, not_done: str) -> Path:
    """A path that exists; whoever wrote ``org/name`` probably meant a hub's model, and is told."""
    try:
        return local_path(source, "model", not_done=not_done)
    except FwError as error:
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)):
            error.hint = f"for a model of the Hugging Face hub write hf:{source}"
        raise


def _looks_local(source: str) -> bool:
    if source.startswith("hf:"):
        return False
    return source.startswith((".", "/", "~")) or "/" in source or source.endswith(".gguf") or Path(source).is_dir()

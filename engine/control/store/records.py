"""Stored records: a document with a version, kept apart from what goes over the wire, and how an old one is read.

A record has the fields of its wire type, those too that the type declares with ``exclude``: they are private, so they
stand in the store and in no reply. A field that is added needs a default and one that goes away needs nothing. A field
that is renamed, moved or means something else makes a new version: append its upgrade to ``UPGRADES``, and never change
one that was released.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from fw_sdk.types import FwError, Resource, resource_id

R = TypeVar("R", bound=Resource)
Document = dict[str, Any]
Upgrade = Callable[[Document], Document]


def _evaluation_by_full_name(document: Document) -> Document:
    """Until version 1 a program asked for the bare id of a model, which may name a deployment too."""
    spec, model = document.get("spec"), document.get("model")
    if spec and model and spec.get("model") == resource_id(model, "models"):
        return {**document, "spec": {**spec, "model": model}}
    return document


UPGRADES: Mapping[str, tuple[Upgrade, ...]] = {"evaluate": (_evaluation_by_full_name,)}
"""For each collection, or kind of job, what makes version 2 of a document of version 1, and so on."""


def version_of(kind: str) -> int:
    """The version in which records of a collection or kind of job are written now."""
    return 1 + len(UPGRADES.get(kind, ()))


def columns(kind: str, value: Resource) -> dict[str, Any]:
    """A value as the columns to store: its document, private fields included, and its version."""
    document = value.to_wire()
    for name, field in type(value).model_fields.items():
        if field.exclude and (private := getattr(value, name)) is not None:
            document[field.alias or name] = to_jsonable_python(private, by_alias=True, exclude_none=True)
    return {"document": json.dumps(document, ensure_ascii=False), "version": version_of(kind)}


def load(kind: str, record: type[R], version: int, document: str) -> R:
    """A stored record as it would be written now; fields that this version does not know any more are left out.

    Raises:
        FwError: ``failed_precondition`` if a newer version wrote it, so that nothing of it is lost, or if it is broken.
    """
    if version > version_of(kind):
        raise newer(kind, version)
    try:
        value = json.loads(document)
        for upgrade in UPGRADES.get(kind, ())[version - 1 :]:
            value = upgrade(value)
        keeps_all = record.model_config.get("extra") == "allow"
        return record.model_validate(value, extra=None if keeps_all else "ignore")
    except ValidationError as error:
        raise FwError(
            "failed_precondition",
            f"A stored {record.__name__} cannot be read by this version: {error.errors()[0]['msg']}.",
            hint="use the version of fw that wrote it",
        ) from error


def newer(kind: str, version: int) -> FwError:
    """The error of a record that a newer version of fw wrote."""
    return FwError(
        "failed_precondition",
        f"A newer version of fw stored this: '{kind}' in version {version}, and this one knows {version_of(kind)}.",
        not_done="nothing was changed",
        hint="install that version or newer, or use another FW_HOME",
    )

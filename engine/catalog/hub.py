"""What ``hf:org/name`` means, and which files of a hub repository make the model. No network here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from engine.catalog.model_files import PICKLE_SUFFIXES, SUPPORTED, WEIGHT_SUFFIXES, allowed_name
from fw_sdk.types import FwError

SCHEME = "hf:"
VARIABLES = ("HF_", "HUGGING_FACE_")
"""How the environment variables begin that say where the hub is and who we are there."""
INDEX = "model.safetensors.index.json"
SYNTAX = "hf:org/name, hf:org/name@revision, or for one GGUF file of many hf:org/name:Q4_K_M"
_SOURCE = re.compile(r"hf:(?P<repo>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[^@:\s]+))?(:(?P<variant>[^:\s]+))?")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
NOT_DONE = "Nothing was pulled."


@dataclass(frozen=True)
class HubSource:
    """A repository on a hub.

    Attributes:
        repo: ``org/name``.
        revision: branch, tag or commit; None for the default branch.
        variant: which GGUF file: its name, or a part of it such as ``Q4_K_M``.
    """

    repo: str
    revision: str | None = None
    variant: str | None = None

    @classmethod
    def parse(cls, source: str) -> HubSource:
        """Read ``hf:org/name[@revision][:variant]``; FwError ``invalid_argument`` for anything else."""
        found = _SOURCE.fullmatch(source)
        if found is None or ".." in found["repo"]:
            raise FwError(
                "invalid_argument",
                f"'{source}' is not a model on a hub.",
                not_done=NOT_DONE,
                hint=f"write {SYNTAX}",
                param="source",
            )
        return cls(found["repo"], found["revision"], found["variant"])

    @staticmethod
    def looks_like(text: str) -> bool:
        """Whether ``text`` was probably meant as a hub's ``org/name``."""
        return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) is not None

    @property
    def model_id(self) -> str:
        """What the model is called unless the user says otherwise."""
        name = self.repo.rsplit("/", 1)[-1]
        if self.variant is None:
            return name
        if _is_file(self.variant):
            return PurePosixPath(self.variant).name.removesuffix(".gguf")
        return f"{name}-{self.variant}"


@dataclass(frozen=True)
class HubFile:
    """One file of a repository.

    Attributes:
        name: its path in the repository.
        size: bytes.
        digest: ``sha256:`` of a large file, ``git:`` (the object id, SHA-1) of a small one; both are of its content.
    """

    name: str
    size: int
    digest: str


def choose_gguf(files: Sequence[HubFile], variant: str) -> HubFile:
    """The one GGUF file that ``variant`` names.

    Raises:
        FwError: ``not_found`` with what there is, ``invalid_argument`` if several match, ``model_unsupported`` if the
            file is split into several.
    """
    ggufs = _ggufs(files)
    if _is_file(variant):
        found = [file for file in ggufs if variant in (file.name, PurePosixPath(file.name).name)]
    else:
        found = _matching(ggufs, variant, "-./") or _matching(ggufs, variant, "-./_")
    if found and all(_SPLIT.search(file.name) for file in found):
        raise _unsupported(f"'{variant}' is split into {len(found)} GGUF files", "choose one that is a single file")
    if len(found) != 1:
        code, problem = ("invalid_argument", "names several") if found else ("not_found", "names none")
        names = ", ".join(file.name for file in (found or ggufs)[:12])
        raise FwError(
            code,
            f"'{variant}' {problem} of the repository's GGUF files. {'Matching' if found else 'There are'}: {names}.",
            not_done=NOT_DONE,
            hint="give the file's whole name after the colon",
            param="source",
        )
    return found[0]


def choose_files(files: Sequence[HubFile], source: HubSource) -> tuple[tuple[HubFile, ...], tuple[HubFile, ...]]:
    """(weights, everything else that is read) of the repository; weights may still be cut down by ``of_index``.

    Raises:
        FwError: as ``choose_gguf``; ``invalid_argument`` if one of many GGUF files must be named,
            ``model_unsupported`` if there are no weights that fw reads.
    """
    if source.variant is not None:
        return (choose_gguf(files, source.variant),), ()
    names = {file.name for file in files}
    others = tuple(file for file in files if allowed_name(file.name) and not file.name.endswith(WEIGHT_SUFFIXES))
    weights = tuple(file for file in files if "/" not in file.name and file.name.endswith(".safetensors"))
    if weights and "config.json" in names:
        if "tokenizer.json" not in names:
            hint = "take a repository that has one, or a GGUF file of the model"
            raise _unsupported(f"'{source.repo}' has no tokenizer.json", hint)
        whole = tuple(file for file in weights if file.name == "model.safetensors")
        return (weights if INDEX in names else whole or weights), others
    ggufs = _ggufs(files)
    if len(ggufs) == 1:
        return (choose_gguf(files, ggufs[0].name),), ()
    if ggufs:
        raise FwError(
            "invalid_argument",
            f"'{source.repo}' has {len(ggufs)} GGUF files: {', '.join(file.name for file in ggufs[:12])}.",
            not_done=NOT_DONE,
            hint=f"name one: hf:{source.repo}:Q4_K_M, or its whole file name after the colon",
            param="source",
        )
    pickles = [file.name for file in files if file.name.endswith(PICKLE_SUFFIXES)]
    refused = f"; pickle files are never fetched ({', '.join(pickles[:3])})" if pickles else ""
    raise _unsupported(f"'{source.repo}' has no weights that fw reads{refused}", f"supported: {SUPPORTED}")


def of_index(weights: Iterable[HubFile], index: bytes) -> tuple[HubFile, ...]:
    """The files that ``model.safetensors.index.json`` names; FwError ``model_unsupported`` if one is not there."""
    try:
        fields: dict[str, Any] = json.loads(index)
        wanted = set(fields["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unsupported(f"its {INDEX} cannot be read", "tell its publisher") from error
    chosen = tuple(file for file in weights if file.name in wanted)
    missing = sorted(wanted - {file.name for file in chosen})
    if missing:
        raise _unsupported(f"its {INDEX} names {missing[0]}, which is not there", "tell its publisher")
    return chosen


def _matching(ggufs: Sequence[HubFile], variant: str, ends: str) -> list[HubFile]:
    """Files with ``variant`` as a whole word between these characters, whatever its case."""
    word = re.compile(rf"(^|[{ends}]){re.escape(variant)}([{ends}]|$)", re.IGNORECASE)
    return [file for file in ggufs if word.search(file.name)]


def _ggufs(files: Sequence[HubFile]) -> list[HubFile]:
    """GGUF files of language models; ``mmproj`` are eyes for them."""
    return [file for file in files if file.name.endswith(".gguf") and "mmproj" not in file.name.lower()]


def _is_file(variant: str) -> bool:
    return variant.endswith(".gguf")


def _unsupported(reason: str, hint: str) -> FwError:
    return FwError(
        "model_unsupported", f"This model cannot be used: {reason}.", not_done=NOT_DONE, hint=hint, param="source"
    )

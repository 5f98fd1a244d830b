"""Content digests: equal digests mean equal bytes, whatever the names of the folders around them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from engine.catalog.model_files import find_model_files

PREFIX = "sha256:"


def digest_file(path: Path) -> str:
    """``sha256:`` and the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return PREFIX + hashlib.file_digest(file, "sha256").hexdigest()


def digest_model(path: Path) -> str:
    """Digest of a model: its weights, configuration and tokenizer, and of nothing else in the folder.

    A GGUF file holds all three, so its model's digest is the file's, whether ``path`` is the file or its folder.

    Raises:
        FwError: as ``find_model_files``.
    """
    files = find_model_files(path)
    return digest_file(files.gguf) if files.gguf else _digest_files(files.root, files.all)


def digest_tree(path: Path) -> str:
    """Digest of every file below a folder, by relative name, independent of order and times."""
    return _digest_files(path, (file for file in path.rglob("*") if file.is_file()))


def _digest_files(root: Path, files: Iterable[Path]) -> str:
    lines = sorted(f"{file.relative_to(root).as_posix()}\0{digest_file(file)}\n" for file in files)
    return PREFIX + hashlib.sha256("".join(lines).encode()).hexdigest()

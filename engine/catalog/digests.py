"""Content digests: equal digests mean equal bytes, whatever the names of the folders around them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
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


def digest_of_files(digests: Mapping[str, str]) -> str:
    """Digest of files of which only the digests are known, by relative name."""
    lines = sorted(f"{name}\0{digest}\n" for name, digest in digests.items())
    return PREFIX + hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_git_blob(path: Path) -> str:
    """``git:`` and the object id (SHA-1) that git gives a file of these bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return "git:" + digest.hexdigest()


def _digest_files(root: Path, files: Iterable[Path]) -> str:
    return digest_of_files({file.relative_to(root).as_posix(): digest_file(file) for file in files})


def serving_digest(
    base: str, adapter: str | None, *, dtype: str, numerics: str, template: str, preset: Mapping[str, object]
) -> str:
    """Digest of everything that shapes an answer beside the request: what replies carry as ``fw-digest``.

    Args:
        base, adapter: digests of the weights.
        dtype: how the weights are held (quantisation).
        numerics: ``exact`` or ``fast``.
        template: digest of the chat template.
        preset: what a deployment adds to a request that does not say otherwise.
    """
    parts = {"base": base, "adapter": adapter, "dtype": dtype, "numerics": numerics, "template": template}
    text = json.dumps({**parts, "preset": dict(preset)}, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

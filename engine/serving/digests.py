"""What exactly answers, as one digest a model: every answer carries it as ``fw-digest``."""

from __future__ import annotations

import asyncio
from pathlib import Path

from engine.catalog.digests import digest_model, digest_tree, serving_digest

HEADER = "fw-digest"


class ServedDigests:
    """The digests of a worker's base and adapters, kept up to date as weights are loaded.

    Args:
        name: the base model's name.
        base: the digest of its weights.
        dtype, numerics, template: how they are held, computed and prompted.
    """

    def __init__(self, name: str, base: str, *, dtype: str, numerics: str, template: str) -> None:
        self._name, self._base = name, base
        self._dtype, self._numerics, self._template = dtype, numerics, template
        self._adapters: dict[str, str] = {}

    def of(self, model: str) -> str:
        """The digest of what answers as ``model``."""
        return serving_digest(
            self._base,
            self._adapters.get(model),
            dtype=self._dtype,
            numerics=self._numerics,
            template=self._template,
            preset={},
        )

    async def loaded(self, name: str | None, path: str) -> None:
        """Other weights are served: an adapter's, or with None the base's own."""
        if name is None:
            self._base = await asyncio.to_thread(digest_model, Path(path))
        else:
            self._adapters[name] = await asyncio.to_thread(digest_tree, Path(path))

    def unloaded(self, name: str) -> None:
        """An adapter is not served any more."""
        self._adapters.pop(name, None)

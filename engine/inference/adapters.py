"""Adapters by name, what a request's choice of them amounts to, and which of their weights stay in memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from engine.catalog.adapters import WEIGHTS_FILE
from engine.inference.request import Request
from engine.models import Adapter
from engine.models.combine import combine
from fw_sdk.types import FwError, not_found

MAX_PARTS = 8

Key = tuple[tuple[int, float], ...]
"""A choice of adapters: identity and weight of each part, in order of identity."""


@dataclass(frozen=True)
class Source:
    """What a name stands for.

    Attributes:
        identity: never given twice.
        folder: where its files are.
        stamp: which files, by path, size and time of change.
        version: of the weights, as tokens are stamped with it; 0 until it has a name.
    """

    identity: int
    folder: Path
    stamp: str
    version: int = 0


@dataclass(eq=False)
class Resident:
    """Weights in memory.

    Attributes:
        number: which weights these are, for the prefix index and the runner; never given twice.
        parts: identities of the adapters that they are made of.
        weights: as the runner prepared them.
        nbytes: their size.
        version: the latest among the parts.
        users: requests that run with them; they are not evicted meanwhile.
    """

    number: int
    parts: frozenset[int]
    weights: Any
    nbytes: int
    version: int = 0
    users: int = 0


@dataclass(frozen=True)
class Recipe:
    """What makes up a choice of adapters; one step from a request's names to weights, good in any thread."""

    parts: tuple[tuple[Source, float], ...]

    @property
    def key(self) -> Key:
        """What the weights are found by."""
        return tuple((source.identity, weight) for source, weight in self.parts)

    @property
    def single(self) -> Source | None:
        """The adapter, if there is just one and at its own strength."""
        return self.parts[0][0] if len(self.parts) == 1 and self.parts[0][1] == 1.0 else None


class AdapterRegistry(Mapping[str, Source]):
    """Loaded adapters by name. Weights that were used least recently go and are read again when asked for.

    Weights that a running request uses stay, even beyond the limits.

    Args:
        load: reads the adapter in a folder; may run in any thread.
        prepare: makes the runner's weights out of it; may run in any thread.
        versions: numbers for weights that are loaded.
        max_count: choices of adapters in memory.
        max_bytes: their size together.
    """

    def __init__(
        self,
        load: Callable[[Path], Adapter],
        prepare: Callable[[Adapter], Any],
        versions: Iterator[int],
        *,
        max_count: int,
        max_bytes: int,
    ) -> None:
        self._load, self._prepare, self._versions = load, prepare, versions
        self._max_count, self._max_bytes = max_count, max_bytes
        self._sources: dict[str, Source] = {}
        self._resident: OrderedDict[Key, Resident] = OrderedDict()
        self._identities = count(1)
        self.evictions = 0

    def __getitem__(self, name: str) -> Source:
        return self._sources[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._sources))

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def resident(self) -> int:
        """How many choices of adapters are in memory."""
        return len(self._resident)

    @property
    def nbytes(self) -> int:
        """Memory of the weights that are held."""
        return sum(item.nbytes for item in self._resident.values())

    def source(self, folder: Path | str) -> Source:
        """The adapter in a folder, with an identity of its own; touches nothing, may run in any thread."""
        path = Path(folder).resolve()
        return Source(next(self._identities), path, _stamp(path))

    def install(self, name: str, source: Source, weights: Resident, *, instead: bool) -> Source:
        """Give a name to an adapter that was read. Installing the same files again changes nothing.

        Returns:
            What the name stands for now.

        Raises:
            FwError: ``already_exists`` if the name has other weights and they are not to be put ``instead``.
        """
        present = self._sources.get(name)
        if present is not None and present.stamp == source.stamp:
            return present
        if present is not None and not instead:
            raise FwError(
                "already_exists",
                f"adapter '{name}' is loaded with other weights",
                not_done="nothing was loaded",
                hint="unload it first, or choose another name",
                param="lora_name",
            )
        if present is not None:
            self.remove(name)
        source = replace(source, version=next(self._versions))
        self._sources[name] = source
        self.keep(Recipe(((source, 1.0),)), weights)
        return source

    def remove(self, name: str) -> None:
        """Forget a name. Requests that run with its weights keep them.

        Raises:
            FwError: ``not_found``.
        """
        if name not in self._sources:
            raise not_found("adapter", name, self._sources, "list what is loaded with GET /v1/models")
        gone = self._sources.pop(name).identity
        for key in [key for key in self._resident if any(identity == gone for identity, _ in key)]:
            del self._resident[key]

    def recipe(self, request: Request) -> Recipe | None:
        """What the request asks for; None is the base.

        Raises:
            FwError: ``not_found`` for an adapter that is not loaded, ``invalid_argument`` for a combination that
                cannot be.
        """
        chosen = _chosen(request)
        for name, _ in chosen:
            if name not in self._sources:
                raise not_found("adapter", name, self._sources, "load it first")
        parts = [(self._sources[name], weight) for name, weight in chosen]
        return Recipe(tuple(sorted(parts, key=lambda part: part[0].identity))) if parts else None

    def find(self, recipe: Recipe) -> Resident | None:
        """Its weights if they are in memory; they count as used now."""
        found = self._resident.get(recipe.key)
        if found is not None:
            self._resident.move_to_end(recipe.key)
        return found

    def read(self, recipe: Recipe) -> Resident:
        """Read its files and combine them; touches nothing, may run in any thread.

        Raises:
            FwError: what reading the files raises, and ``failed_precondition`` if they have changed since they were
                loaded.
        """
        parts = [(self._read(source), weight) for source, weight in recipe.parts]
        single = recipe.single
        weights = self._prepare(parts[0][0] if single is not None else combine(parts))
        number = next(self._identities) if single is None else single.identity
        return Resident(number, frozenset(source.identity for source, _ in recipe.parts), weights, weights.nbytes)

    def keep(self, recipe: Recipe, read: Resident) -> Resident:
        """Hold what was read, unless it has come into memory meanwhile, and let others go if that is too much."""
        present = self.find(recipe)
        if present is not None:
            return present
        read.version = max(source.version for source, _ in recipe.parts)
        self._resident[recipe.key] = read
        self.trim(spare=read)
        return read

    def trim(self, spare: Resident | None = None) -> None:
        """Let go what is too much, but for ``spare`` and what requests run with."""
        held = self.nbytes
        for key, item in tuple(self._resident.items()):
            if self.resident <= self._max_count and held <= self._max_bytes:
                return
            if item is not spare and item.users == 0:
                held -= item.nbytes
                del self._resident[key]
                self.evictions += 1

    def use(self, resident: Resident) -> None:
        """One more request runs with these weights."""
        resident.users += 1

    def release(self, resident: Resident) -> None:
        """One request fewer does."""
        resident.users -= 1
        if resident.users == 0:
            self.trim()

    def release_all(self) -> None:
        """No request runs."""
        for resident in self._resident.values():
            resident.users = 0
        self.trim()

    def check_integrity(self, used: Iterable[Resident]) -> None:
        """Raise unless ``used`` (one entry per running request) is exactly what is counted."""
        counted: dict[int, int] = {}
        residents = {id(item): item for item in self._resident.values()}
        for item in used:
            counted[id(item)] = counted.get(id(item), 0) + 1
            residents[id(item)] = item
        for address, item in residents.items():
            if item.users != counted.get(address, 0):
                raise RuntimeError(f"adapter {item.number}: {item.users} users counted, {counted.get(address, 0)} are")
        idle = any(item.users == 0 for item in self._resident.values())
        if idle and (self.resident > self._max_count or self.nbytes > self._max_bytes):
            raise RuntimeError(f"{self.resident} adapters of {self.nbytes} bytes are held, and not all are in use")

    def _read(self, source: Source) -> Adapter:
        adapter = self._load(source.folder)
        if _stamp(source.folder) != source.stamp:
            raise FwError(
                "failed_precondition",
                f"the files in {source.folder} are not those that were loaded",
                not_done="the adapter was not read again",
                hint="load the adapter again",
            )
        return adapter


def _chosen(request: Request) -> tuple[tuple[str, float], ...]:
    """The request's adapters with their weights."""
    if request.adapter is not None and request.adapters:
        problem = "a request names one adapter or a combination, not both"
    elif len(request.adapters) > MAX_PARTS:
        problem = f"{len(request.adapters)} adapters in one combination; {MAX_PARTS} are allowed"
    elif not all(math.isfinite(weight) for _, weight in request.adapters):
        problem = "the weight of an adapter must be a finite number"
    else:
        return request.adapters if request.adapter is None else ((request.adapter, 1.0),)
    raise FwError("invalid_argument", problem, not_done="nothing was generated", param="adapters")


def _stamp(folder: Path) -> str:
    """Which files those are; a missing one is said by whoever reads it."""
    try:
        stat = (folder / WEIGHTS_FILE).stat()
    except OSError:
        return ""
    return f"{folder}:{stat.st_size}:{stat.st_mtime_ns}"

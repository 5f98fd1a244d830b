"""Launch configurations: rules in each operator's ``configs/<architecture>.json``, never values in Python.

A file names, for each kernel, ``rules`` that are read from the top, the first that fits counts, and a ``space`` of
further configurations that the ahead-of-time check compiles and a tuner may try:

    {"device": "…", "kernels": {"add_rms_norm": {
        "rules": [{"when": {"width": [1, 1024]}, "config": {"ROWS": 8, "num_warps": 4}}, {"config": {…}}],
        "space": [{…}]}}}

``when`` maps a fact to an inclusive range of integers or to a list of words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

Config = Mapping[str, int]
Fact = int | str

ARCHITECTURE = "sm90"
_FORCED: ContextVar[Mapping[str, Config] | None] = ContextVar("forced", default=None)


def tuned(operator: str, kernel: str, **facts: Fact) -> Config:
    """The configuration of ``kernel`` for a problem described by ``facts``: a table's answer, nothing is timed.

    Raises:
        LookupError: if no rule of the operator's file fits.
    """
    instead = (_FORCED.get() or {}).get(kernel)
    return instead if instead is not None else _looked_up(operator, kernel, tuple(sorted(facts.items())))


@contextmanager
def forced(kernel: str, config: Config) -> Iterator[None]:
    """Within the block ``kernel`` is launched with ``config``, whatever the table says: for checks and tuning."""
    token = _FORCED.set({**(_FORCED.get() or {}), kernel: config})
    try:
        yield
    finally:
        _FORCED.reset(token)


def space(operator: str, kernel: str) -> list[Config]:
    """Every configuration that the operator's file names for ``kernel``, each once."""
    entry = _table(operator)["kernels"][kernel]
    named = [rule["config"] for rule in entry["rules"]] + entry.get("space", [])
    return [config for index, config in enumerate(named) if config not in named[:index]]


def kernels_of(operator: str) -> list[str]:
    """The kernels that the operator's file configures."""
    return list(_table(operator)["kernels"])


@lru_cache(maxsize=4096)
def _looked_up(operator: str, kernel: str, facts: tuple[tuple[str, Fact], ...]) -> Config:
    known = dict(facts)
    for rule in _table(operator)["kernels"][kernel]["rules"]:
        if all(_fits(known[name], accepted) for name, accepted in rule.get("when", {}).items()):
            config: Config = rule["config"]
            return config
    raise LookupError(f"no rule of {operator}/configs/{ARCHITECTURE}.json fits {kernel} with {known}")


def _fits(fact: Fact, accepted: list[Any]) -> bool:
    return fact in accepted if isinstance(fact, str) else accepted[0] <= fact <= accepted[1]


@lru_cache
def _table(operator: str) -> dict[str, Any]:
    path = Path(__file__).parent / operator / "configs" / f"{ARCHITECTURE}.json"
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table

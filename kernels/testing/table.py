"""The table of compiled kernels, ``results/aot.csv``: written whole or for some operators, and compared."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from kernels.testing.aot import Row

PATH = Path(__file__).parents[1] / "results" / "aot.csv"


def read(path: Path = PATH) -> list[Row]:
    """The rows of the table; none if there is no file yet."""
    if not path.exists():
        return []
    kinds = {field.name: field.type for field in fields(Row)}
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    typed: list[dict[str, Any]] = [
        {name: int(value) if kinds[name] == "int" else value for name, value in line.items()} for line in lines
    ]
    return [Row(**line) for line in typed]


def write(rows: Iterable[Row], path: Path = PATH) -> None:
    """Replace the table by ``rows``, in the order of their names."""
    ordered = sorted(rows, key=lambda row: (row.op, row.case, row.kernel, row.config))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in ordered)


def differences(found: Iterable[Row], path: Path = PATH) -> list[str]:
    """What ``found`` says otherwise than the table, a line each; rows of operators that it leaves out do not count."""
    found = list(found)
    ops = {row.op for row in found}
    kept = {_key(row): row for row in read(path) if row.op in ops}
    new = {_key(row): row for row in found}
    lines = [f"{' '.join(key)}: not in the table" for key in new if key not in kept]
    lines += [f"{' '.join(key)}: only in the table" for key in kept if key not in new]
    for key in new.keys() & kept.keys():
        before, after = asdict(kept[key]), asdict(new[key])
        changed = [f"{name} {before[name]} -> {after[name]}" for name in after if before[name] != after[name]]
        if changed:
            lines.append(f"{' '.join(key)}: {', '.join(changed)}")
    return sorted(lines)


def _key(row: Row) -> tuple[str, ...]:
    return row.op, row.case, row.kernel, row.config

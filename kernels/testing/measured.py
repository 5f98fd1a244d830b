"""The table of measured operators, ``results/<device>.csv``: grows row by row, is resumed, and is shown as markdown."""

from __future__ import annotations

import csv
import hashlib
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
OURS = "triton"
CEILINGS = "ceilings"
SOURCES = (".py", ".json", ".c", ".h")


@dataclass(frozen=True)
class Stamp:
    """What a measurement is of; rows with equal ones need not be measured again.

    Attributes:
        sources: digest of everything under ``kernels`` that decides about code.
        torch, triton: versions.
        commit: of the repository; not part of what is compared, a commit that leaves ``kernels`` alone changes nothing.
        date: of the run, as 2026-11-24.
    """

    sources: str
    torch: str
    triton: str
    commit: str
    date: str

    def same(self, row: Row) -> bool:
        """Whether the row was measured with the same code and versions."""
        return (self.sources, self.torch, self.triton) == (row.sources, row.torch, row.triton)


@dataclass(frozen=True)
class Row:
    """One way to solve one problem, on one device.

    Attributes:
        op: name of the spec, or ``ceilings``.
        case: name of the problem.
        way: ``triton``, ``torch`` for the plain form, or a peer's name.
        verdict: ``ok``, or why there is no figure.
        us: median microseconds of a call; None without a figure, as the following ones.
        gb_s: the problem's least bytes over that time.
        tflop_s: its products' operations over that time.
        floor_us: the least time at the ceilings of the same run.
        repeats: how many the median is of.
        how: ``graph`` or ``launched``.
        sources, torch, triton, commit, date: as in ``Stamp``.
    """

    op: str
    case: str
    way: str
    verdict: str
    us: float | None
    gb_s: float | None
    tflop_s: float | None
    floor_us: float | None
    repeats: int
    how: str
    sources: str
    torch: str
    triton: str
    commit: str
    date: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a row of."""
        return self.op, self.case, self.way


def path_of(device: str, folder: Path = HERE / "results") -> Path:
    """The file of a device, by its name."""
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.csv"


def read(path: Path) -> list[Row]:
    """The rows of the file; none if there is none yet. A line that an interruption cut off does not count."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [_typed(line) for line in csv.DictReader(whole.splitlines())]


def append(row: Row, path: Path) -> None:
    """Add a row at the end, on disk when this returns."""
    begun = path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        if not begun:
            writer.writeheader()
        writer.writerow(_written(row))


def write(rows: Iterable[Row], path: Path) -> None:
    """Replace the file by ``rows``, in the order of their names; of rows with one key the last counts."""
    latest = {row.key: row for row in rows}
    fresh = path.with_suffix(".csv.new")
    fresh.unlink(missing_ok=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    with fresh.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_written(latest[key]) for key in sorted(latest))
    fresh.replace(path)


def markdown(rows: Sequence[Row], device: str) -> str:
    """The table for people: ours with its share of the floor and beside the best peer, and which peers did not run."""
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.op != CEILINGS:
            cases.setdefault((row.op, row.case), []).append(row)
    lines = [f"# {device}", "", _ceilings(rows), ""]
    lines += ["| op | problem | µs | GB/s | TFLOP/s | % of floor | best peer | its µs | × peer |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    lines += [_line(op, case, group) for (op, case), group in sorted(cases.items())]
    lines += ["", "The floor is the problem's least bytes and operations at the ceilings of the same run, and at least"]
    lines += ["one empty kernel in a graph. × peer above 1: faster than the best peer. Medians of graph replays, with"]
    lines += ["inputs that together do not fit the cache, up to 256 sets of them."]
    failed = [row for row in rows if row.verdict != "ok"]
    lines += ["", "Without a figure:", ""] if failed else []
    lines += [f"- {row.op}, {row.case}, {row.way}: {row.verdict}" for row in failed]
    dates = sorted({row.date for row in rows})
    versions = sorted({f"torch {row.torch}, triton {row.triton}, commit {row.commit}" for row in rows})
    return "\n".join([*lines, "", f"{', '.join(dates)}; {'; '.join(versions)}.", ""])


def _line(op: str, case: str, group: Sequence[Row]) -> str:
    ours = next((row for row in group if row.way == OURS), None)
    peers = [row for row in group if row.way != OURS and row.us is not None]
    best = min(peers, key=lambda row: row.us or 0.0, default=None)
    cells = [op, case]
    if ours is None or ours.us is None:
        cells += ["not measured" if ours is None else "failed", "", "", ""]
    else:
        share = "" if ours.floor_us is None else f"{100 * ours.floor_us / ours.us:.0f}"
        cells += [f"{ours.us:.1f}", _number(ours.gb_s, 0), _number(ours.tflop_s, 1), share]
    cells += [best.way, _number(best.us, 1)] if best else ["", ""]
    cells += [f"{best.us / ours.us:.2f}" if best and best.us and ours and ours.us else ""]
    return f"| {' | '.join(cells)} |"


def _ceilings(rows: Sequence[Row]) -> str:
    found = [row for row in rows if row.op == CEILINGS]
    said = [f"{row.case} {_rate(row) if row.verdict == 'ok' else row.verdict}" for row in found]
    return f"Ceilings: {'; '.join(said) or 'not measured'}."


def _rate(row: Row) -> str:
    if row.gb_s:
        return f"{row.gb_s:.0f} GB/s"
    return f"{row.tflop_s:.0f} TFLOP/s" if row.tflop_s else f"{row.us or 0.0:.2f} µs"


def _number(value: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" if value else ""


def _written(row: Row) -> dict[str, Any]:
    return {
        name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        for name, value in asdict(row).items()
    }


def _typed(line: dict[str, str]) -> Row:
    typed: dict[str, Any] = dict(line)
    for name in ("us", "gb_s", "tflop_s", "floor_us"):
        typed[name] = float(line[name]) if line[name] else None
    typed["repeats"] = int(line["repeats"])
    return Row(**typed)


def stamp(date: str) -> Stamp:
    """Of this checkout and its versions."""
    import torch
    import triton

    return Stamp(digest(HERE), torch.__version__, triton.__version__, _commit(), date)


def digest(folder: Path) -> str:
    """Twelve digits that change with any source file that decides about results; tests do not."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in SOURCES and "tests" not in path.parts and path.is_file():
            total.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()

"""Run the scripted tasks: ``python -m tests.agents [--write] [--only TASK …] [--trace FILE]``.

Prints the table and what got dearer; ``--write`` keeps the run as the record and writes the page's tables.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.agents import regression
from tests.agents.mistakes import MISTAKES
from tests.agents.tasks import TASKS
from tests.agents.world import World
from tests.e2e.place import Place


def main() -> int:
    """Exit code 1 when a task failed, or got dearer and is not written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starter", type=Path, default=Path.home() / ".cache/fw-tests/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--only", nargs="+", default=[], help="these tasks; others may need what they leave behind")
    parser.add_argument("--trace", type=Path, help="write every exchange there")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    tasks = [task for task in (*TASKS, *MISTAKES) if not given.only or task.__name__ in given.only]
    with tempfile.TemporaryDirectory() as folder:
        place = Place.prepare(Path(folder))
        try:
            place.up()
            place.pull(given.starter)
            found = regression.run_all(World(place, given.starter), tasks)
        finally:
            place.close()
    if given.trace:
        lines = [item.to_json() for outcome in found.values() for item in outcome.trace]
        given.trace.write_text("\n".join(lines) + "\n")
    return report(found, given.write)


def report(found: dict[str, regression.Outcome], write: bool) -> int:
    """Say what came of it, and keep it if asked."""
    print(regression.table(outcome.cost for outcome in found.values()))
    failed = [f"{name}: {outcome.failure}" for name, outcome in found.items() if outcome.failure]
    print(*failed, sep="\n", file=sys.stderr)
    if write and not failed:
        regression.record(outcome.cost for outcome in found.values())
        regression.write_page()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

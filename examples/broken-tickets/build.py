"""Make train.jsonl and heldout.jsonl: the rows of ../tickets with what goes wrong with rows in practice.

    python build.py

Standard library only, and deterministic. A line cut short, one without an answer, one with an unknown role; six rows
twice; four held-out prompts that are trained on as well, two of them in capital letters. All of it is near the top, so
that it can be seen, and so that a part of the file shows it too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TICKETS = Path(__file__).parents[1] / "tickets"
CUT, UNANSWERED, MISNAMED = 4, 10, 16
"""Places of the three lines that cannot be used, counted from 0."""
TWICE = ((0, 7), (1, 12), (2, 19), (5, 21), (8, 23), (10, 27))
"""Which row stands again, and where."""
LEAKED = ((0, 14), (1, 17), (2, 25), (3, 29))
"""Which held-out row stands among those to train on, and where; the first two in capital letters."""
SHOUTED = 2


def read(side: str) -> list[dict[str, Any]]:
    """The sound rows."""
    lines = (TICKETS / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def train() -> list[str]:
    """Lines to train on."""
    rows, heldout = read("train"), read("heldout")
    added = {place: rows[row] for row, place in TWICE} | {place: heldout[row] for row, place in LEAKED}
    for row in heldout[:SHOUTED]:
        row["messages"][1]["content"] = row["messages"][1]["content"].upper()
    for place in sorted(added):
        rows.insert(place, added[place])
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[CUT] = lines[CUT][:-14]
    lines[UNANSWERED] = json.dumps({"messages": rows[UNANSWERED]["messages"][:-1]}, ensure_ascii=False)
    lines[MISNAMED] = lines[MISNAMED].replace('"assistant"', '"agent"')
    return lines


def main() -> None:
    """Write both files beside this one."""
    heldout = [json.dumps(row, ensure_ascii=False) for row in read("heldout")]
    for side, lines in (("train", train()), ("heldout", heldout)):
        Path(__file__).with_name(f"{side}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()

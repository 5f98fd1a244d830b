"""Make train.jsonl and heldout.jsonl: sentences with one order number in them, and the number.

    python build.py

Standard library only, and deterministic. No sentence and no number stands on both sides.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SYSTEM = "Answer with the order number that stands in the text, nothing else."
ROWS = 100
"""Of each side."""
SENTENCES = {
    "train": (
        "My order {number} has not come.",
        "Where is {number}? I ordered last week.",
        "Please cancel {number}.",
        "The invoice for {number} is wrong.",
        "About {number}: two parts are missing.",
    ),
    "heldout": (
        "I would like to change the address of {number}.",
        "{number} arrived today, but the box is empty.",
        "Can you tell me when {number} will be sent?",
        "We were charged twice for order {number}, please check.",
        "Thank you for sending {number} so quickly.",
    ),
}
NUMBERS = {"train": (1000, 5999), "heldout": (6000, 9999)}


def rows(side: str) -> list[dict[str, Any]]:
    """``train`` or ``heldout``, no number twice."""
    rng, found = random.Random(f"order-numbers {side}"), dict[str, str]()
    while len(found) < ROWS:
        number = f"A-{rng.randint(*NUMBERS[side])}"
        found.setdefault(number, rng.choice(SENTENCES[side]).format(number=number))
    return [row(text, number) for number, text in found.items()]


def row(text: str, number: str) -> dict[str, Any]:
    """One conversation."""
    turns = (("system", SYSTEM), ("user", text), ("assistant", number))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def main() -> None:
    """Write both files beside this one."""
    for side in ("train", "heldout"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(side))
        Path(__file__).with_name(f"{side}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

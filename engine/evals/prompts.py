"""What the model is asked for a row: the row's own prompt, with few-shot examples before it where they are wanted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from engine.evals.overlap import question_key
from engine.jobs.rows import Row, canonical, prompt_key
from fw_sdk.types import FwError

Message = dict[str, Any]


def row_seed(seed: int, line: int) -> int:
    """The sampling seed of one row, below 2**31: a row's answer does not depend on which other rows are asked."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{line}".encode()).digest()[:4], "big") >> 1


class FewShotExamples:
    """``count`` example rows in an order drawn by ``seed``, the same for every row, so that servers can cache them.

    No answer is shown twice before every other one was shown once: where answers are labels, a draw that left some out
    would make the baseline weaker than examples are. A row whose question is the one asked is skipped for that question
    and the next one takes its place. Rows that do not end with an assistant message are no examples. Raises
    ``invalid_argument`` if there are too few.
    """

    def __init__(self, rows: Sequence[Row], count: int, seed: int) -> None:
        usable = {question_key(row): row for row in rows if len(row.prompt) < len(row.messages)}
        if len(usable) <= count:
            raise FwError(
                "invalid_argument",
                f"{count} few-shot examples need more than {count} different rows that end with an assistant message; "
                f"there are {len(usable)}.",
                not_done="Nothing was asked.",
                hint="ask for fewer examples or give more rows",
                param="fewShot",
            )
        self._count = count
        self._ordered = answers_in_turn(
            sorted(usable.items(), key=lambda item: hashlib.sha256(f"{seed}:{prompt_key(item[1])}".encode()).digest())
        )

    @property
    def lines(self) -> list[int]:
        """The line numbers of the examples that a row which is none of them is shown."""
        return [row.line for _, row in self._ordered[: self._count]]

    def before(self, row: Row) -> list[Message]:
        """The turns of the examples for ``row``: user and assistant messages, without the examples' system prompts."""
        asked = question_key(row)
        chosen = [example for key, example in self._ordered[: self._count + 1] if key != asked][: self._count]
        return [message for example in chosen for message in example.messages if message.get("role") != "system"]


def answers_in_turn(drawn: Sequence[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """The rows as drawn, except that an answer's second row comes after every answer's first, and so on."""
    seen: Counter[bytes] = Counter()
    turns = []
    for item in drawn:
        answer = canonical(item[1].messages[-1])
        turns.append(seen[answer])
        seen[answer] += 1
    return [item for _, item in sorted(zip(turns, drawn, strict=True), key=lambda pair: pair[0])]


def build_prompt(row: Row, examples: FewShotExamples | None) -> list[Message]:
    """The row's system prompt, the examples' turns, then the rest of the row's prompt."""
    if examples is None:
        return row.prompt
    system = [message for message in row.prompt if message.get("role") == "system"]
    rest = [message for message in row.prompt if message.get("role") != "system"]
    return [*system, *examples.before(row), *rest]

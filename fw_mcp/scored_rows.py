"""What the rows of an evaluation ask and want, for whoever looks at their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fw_mcp.views import short
from fw_sdk.client import AsyncClient
from fw_sdk.types import Evaluation, FwError

MAX_ROWS = 1_000


@dataclass(frozen=True)
class Row:
    """The last question of a row and the wanted answer (empty if it has none)."""

    asked: str
    wanted: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Row:
        """Of a row as it stands in the dataset."""
        messages = row.get("messages", [])
        asked = [message for message in messages if message.get("role") == "user"]
        wanted = row.get("ground_truth", messages[-1] if messages and messages[-1].get("role") == "assistant" else "")
        return cls(_text(asked[-1]) if asked else "", _text(wanted))


def _text(value: Any) -> str:
    """The content of a message that only says something, else the value as JSON."""
    if isinstance(value, Mapping) and isinstance(value.get("content"), str) and not value.get("tool_calls"):
        return str(value["content"])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


async def rows_of(client: AsyncClient, evaluation: Evaluation) -> dict[int, Row]:
    """Rows that were scored, by their index; the first thousand, or none when the dataset is gone."""
    if evaluation.input_dataset is None:
        return {}
    try:
        dataset = short(evaluation.input_dataset) or evaluation.input_dataset
        found = await client.datasets.rows(dataset, split=evaluation.input_split, limit=MAX_ROWS)
    except FwError as error:
        if error.code != "not_found":
            raise
        return {}
    return {index: Row.of(row) for index, row in enumerate(found)}


def ends(text: str, most: int) -> str:
    """The beginning and the end of ``text``, ``most`` characters together: a question often stands at its end."""
    if len(text) <= most:
        return text
    head = most // 3
    return f"{text[:head]} [...] {text[head - most :]}"

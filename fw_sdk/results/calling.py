"""The call that asks a deployment with a stock client, as a program that can be copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fw_sdk.types import Deployment


def openai_call(deployment: Deployment, token_file: str, system: str | None) -> str:
    """A Python program for the ``openai`` package: where to ask, with whose token, after which system message."""
    before = [{"role": "system", "content": system}] if system else []
    messages = [*before, {"role": "user", "content": "..."}]
    return (
        f"from openai import OpenAI; client = OpenAI(base_url={deployment.url!r}, "
        f"api_key=open({token_file!r}).read().strip()); "
        f"answer = client.chat.completions.create(model={deployment.id!r}, messages={messages!r}); "
        "print(answer.choices[0].message.content)"
    )


def shared_system_message(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The system message that every one of the rows begins with; None if they have none, or several."""
    found = {_system_message(row) for row in rows}
    return found.pop() if len(found) == 1 else None


def _system_message(row: Mapping[str, Any]) -> str | None:
    messages = row.get("messages") or []
    first = messages[0] if messages else {}
    content = first.get("content") if first.get("role") == "system" else None
    return content if isinstance(content, str) else None

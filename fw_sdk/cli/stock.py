"""One request with a client that is not ours, to show that any will do: curl, else the openai package."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from typing import Any

from fw_sdk.types import FwError

TIMEOUT_S = 120


def ask(base_url: str, api_key: str, body: dict[str, Any]) -> tuple[str, str]:
    """Send a chat completion.

    Returns:
        (name of the client, the answer's text).

    Raises:
        FwError: ``unavailable`` with what the client said.
    """
    if shutil.which("curl"):
        return "curl", _curl(base_url, api_key, body)
    if importlib.util.find_spec("openai"):
        return "openai", _openai(base_url, api_key, body)
    from fw_sdk.client import Client

    with Client(base_url=base_url, api_key=api_key) as client:
        model, messages = body["model"], body["messages"]
        return "fw_sdk", client.chat(model, messages, stream=False, max_tokens=body["max_tokens"], temperature=0)


def _curl(base_url: str, api_key: str, body: dict[str, Any]) -> str:
    """The token goes to curl on stdin, as a configuration file, so that no process list shows it."""
    fields = {
        "url": f"{base_url}/v1/chat/completions",
        "header": f"Authorization: Bearer {api_key}",
        "data": json.dumps(body),
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    lines.append('header = "Content-Type: application/json"')
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(TIMEOUT_S), "--config", "-"]
    reply = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    try:
        return str(json.loads(reply.stdout)["choices"][0]["message"]["content"])
    except (ValueError, KeyError, IndexError, TypeError):
        said = (reply.stderr or reply.stdout).strip()[:300]
        raise FwError("unavailable", f"curl got no answer: {said}", hint="fw logs", retryable=False) from None


def _openai(base_url: str, api_key: str, body: dict[str, Any]) -> str:
    import openai

    client = openai.OpenAI(base_url=f"{base_url}/v1", api_key=api_key, timeout=TIMEOUT_S)
    try:
        return client.chat.completions.create(**body).choices[0].message.content or ""
    except openai.OpenAIError as error:
        raise FwError("unavailable", f"openai got no answer: {error}", hint="fw logs", retryable=False) from None

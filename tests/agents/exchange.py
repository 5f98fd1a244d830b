"""One exchange with the server as a model sees it, and what it cost: the unit of every record here."""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcp import Client, MCPError
from mcp.types import CallToolResult, ImageContent, TextContent

from tests.tokens import count_tokens

LISTS = ("tools", "instructions", "resources", "prompts")
"""What a client shows once, at the start: recorded, but not part of the traffic of a task."""
PICTURE = re.compile(r"\n?^\[image/.*\]$", re.MULTILINE)
"""The line that stands in a text for a picture. It is not counted: what a picture costs depends on the model."""


@dataclass(frozen=True)
class Exchange:
    """What was asked and what came back.

    Attributes:
        at: when it was asked, UTC, ISO 8601.
        method: ``call``, ``read``, ``prompt``, or one of ``LISTS``.
        name: the tool, the URI or the prompt; empty for lists.
        arguments: of the call.
        text: the whole result as the model reads it.
        is_error: the result is marked as an error.
        seconds: wall time.
        tokens: of the arguments and of the text together (o200k).
    """

    at: str
    method: str
    name: str
    arguments: dict[str, Any]
    text: str
    is_error: bool
    seconds: float
    tokens: int

    def to_json(self) -> str:
        """One line of a trace."""
        return json.dumps(asdict(self), ensure_ascii=False)


def read_trace(path: Path) -> list[Exchange]:
    """The exchanges of a ``trace.jsonl``, in their order."""
    if not path.exists():
        return []
    return [Exchange(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


async def exchange(
    client: Client, method: str, name: str = "", arguments: dict[str, Any] | None = None, *, pictures: Path
) -> Exchange:
    """Ask ``client`` once; an error of the protocol is a result too. Pictures in it are put below ``pictures``."""
    arguments = arguments or {}
    at, began = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
    try:
        text, is_error = await _ask(client, method, name, arguments, pictures)
    except MCPError as error:
        text, is_error = f"{error.error.code}: {error.error.message}", True
    asked = json.dumps(arguments, ensure_ascii=False) if arguments else ""
    tokens = count_tokens(asked) + count_tokens(PICTURE.sub("", text))
    return Exchange(at, method, name, arguments, text, is_error, round(time.monotonic() - began, 3), tokens)


async def _ask(client: Client, method: str, name: str, arguments: dict[str, Any], pictures: Path) -> tuple[str, bool]:
    if method == "call":
        result = await client.call_tool(name, arguments, progress_callback=_unseen)
        return _shown(result, pictures), bool(result.is_error)
    if method == "read":
        found = await client.read_resource(name)
        return "\n".join(getattr(part, "text", f"[{part.mime_type}]") for part in found.contents), False
    if method == "prompt":
        prompt = await client.get_prompt(name, {key: str(value) for key, value in arguments.items()})
        return "\n".join(getattr(message.content, "text", "") for message in prompt.messages), False
    return await _list(client, method), False


async def _list(client: Client, method: str) -> str:
    if method == "instructions":
        return client.instructions or ""
    if method == "tools":
        tools = (await client.list_tools()).tools
        return "\n\n".join(
            f"{tool.name}: {tool.description}\n{json.dumps(tool.input_schema, ensure_ascii=False)}" for tool in tools
        )
    if method == "prompts":
        prompts = (await client.list_prompts()).prompts
        return "\n".join(f"{item.name}({_parameters(item.arguments)}): {item.description}" for item in prompts)
    resources = (await client.list_resources()).resources
    templates = (await client.list_resource_templates()).resource_templates
    lines = [f"{item.uri}: {item.description or item.title or item.name}" for item in resources]
    return "\n".join([*lines, *(f"{item.uri_template}: {item.description}" for item in templates)])


def _parameters(arguments: Any) -> str:
    return ", ".join(item.name if item.required else f"[{item.name}]" for item in arguments or [])


def _shown(result: CallToolResult, pictures: Path) -> str:
    """The content of a result in its order; a picture is named by the file that it was written to."""
    parts = []
    for part in result.content:
        if isinstance(part, TextContent):
            parts.append(part.text)
        elif isinstance(part, ImageContent):
            pictures.mkdir(parents=True, exist_ok=True)
            file = pictures / f"{len(list(pictures.iterdir())) + 1}.{part.mime_type.rpartition('/')[2]}"
            file.write_bytes(base64.b64decode(part.data))
            parts.append(f"[{part.mime_type}: {file}]")
        else:
            parts.append(part.model_dump_json(exclude_none=True))
    return "\n".join(parts)


async def _unseen(done: float, total: float | None, message: str | None) -> None:
    """Progress is shown to people, not to models; asking for it keeps long calls alive."""

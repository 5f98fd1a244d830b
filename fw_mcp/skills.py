"""The skill that ships with fw: over the skills extension (SEP-2640), and as a plugin folder for Claude Code.

``docs/plugin`` is that folder, with the skill's text; the skill's references are the pages of the documentation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mcp import MCPError
from mcp.server.extension import Extension, MethodBinding, ResourceBinding
from mcp.server.mcpserver.resources import FunctionResource
from mcp.types import PaginatedRequestParams, RequestParams

from fw_mcp.library import pages, purpose
from fw_mcp.tasks import INVALID_PARAMS, MODERN

NAME = "fw"
MARKDOWN = "text/markdown"
TTL_MS = 300_000


@dataclass(frozen=True)
class SkillFile:
    """One file of the skill: its path within the skill's folder, a line on what it is for, and its text."""

    path: str
    purpose: str
    text: str

    @property
    def uri(self) -> str:
        """Where a client reads it."""
        return f"skill://{NAME}/{self.path}"

    def entry(self) -> dict[str, Any]:
        """Its line in the skill's manifest."""
        content = self.text.encode()
        return {
            "uri": self.uri,
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "size": len(content),
        }


@cache
def skill_files() -> tuple[SkillFile, ...]:
    """``SKILL.md`` first, then the pages as references."""
    main = _shipped(f"skills/{NAME}/SKILL.md")
    references = [SkillFile(f"references/{page}.md", purpose(page), text) for page, text in pages().items()]
    return (SkillFile("SKILL.md", frontmatter(main)["description"], main), *references)


def frontmatter(text: str) -> dict[str, str]:
    """The ``key: value`` lines between the first two rulers; values are one line each."""
    head = text.split("---", 2)[1]
    pairs = (line.partition(":") for line in head.strip().splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


class SkillParams(RequestParams):
    """Of ``skills/get``."""

    uri: str


class SkillsExtension(Extension):
    """``skills/list`` and ``skills/get``; every file is a resource too."""

    identifier = "io.modelcontextprotocol/skills"

    def resources(self) -> list[ResourceBinding]:
        """The skill's files."""
        return [ResourceBinding(_resource(file)) for file in skill_files()]

    def methods(self) -> list[MethodBinding]:
        """As the extension names them."""
        return [
            MethodBinding("skills/list", PaginatedRequestParams, self._list, MODERN),
            MethodBinding("skills/get", SkillParams, self._get, MODERN),
        ]

    async def _list(self, ctx: Any, params: PaginatedRequestParams) -> dict[str, Any]:
        return {"skills": [_manifest()], "ttlMs": TTL_MS, "cacheScope": "public"}

    async def _get(self, ctx: Any, params: SkillParams) -> dict[str, Any]:
        if params.uri != skill_files()[0].uri:
            raise MCPError(INVALID_PARAMS, f"Unknown skill URI: {params.uri}")
        return {"skill": _manifest(), "ttlMs": TTL_MS, "cacheScope": "public"}


def _resource(file: SkillFile) -> FunctionResource:
    name = NAME if file.path == "SKILL.md" else file.path
    return FunctionResource.from_function(
        lambda: file.text, uri=file.uri, name=name, description=file.purpose, mime_type=MARKDOWN
    )


def _manifest() -> dict[str, Any]:
    main = skill_files()[0]
    entries = [file.entry() for file in skill_files()]
    return {"uri": main.uri, "frontmatter": frontmatter(main.text), "resources": entries}


def plugin_files() -> dict[str, str]:
    """A Claude Code plugin: path to text. It brings the skill with its references and starts the MCP server."""
    own = {path: _shipped(path) for path in (".claude-plugin/plugin.json", ".mcp.json")}
    return own | {f"skills/{NAME}/{file.path}": file.text for file in skill_files()}


def write_plugin(folder: Path) -> list[Path]:
    """Write the plugin into ``folder``; returns the files."""
    written = []
    for name, text in plugin_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _shipped(path: str) -> str:
    """A file of the plugin as it stands in the documentation."""
    return (resources.files("docs") / "plugin" / path).read_text(encoding="utf-8")

"""An ``MCPServer`` for agents: unknown arguments are errors, messages teach, schemas carry no noise."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, GetPromptResult, InputRequiredResult, ToolAnnotations
from mcp.types import Tool as WireTool
from pydantic import ValidationError

from fw_mcp.corrections import corrected, renamed
from fw_mcp.parameters import TakenAsSent, slim
from fw_mcp.platform import watched
from fw_mcp.results import refusal, with_next
from fw_mcp.tasks import INVALID_PARAMS
from fw_mcp.wire import transport
from fw_sdk.types import FwError, nearest

log = logging.getLogger(__name__)
NOTHING_RUN = "Nothing was run."


def hints(title: str, *, reads: bool = False, destroys: bool = False, opens: bool = False) -> ToolAnnotations:
    """All four hints of a tool. Every tool here is idempotent; ``opens`` marks text from outside."""
    return ToolAnnotations(
        title=title, read_only_hint=reads, destructive_hint=destroys, idempotent_hint=True, open_world_hint=opens
    )


class AgentServer(MCPServer[Any]):
    """Every tool of it answers with ``CallToolResult``: made by ``results.reply``, or ``results.refusal`` on errors."""

    _absent: frozenset[str] = frozenset()

    def add_tool(self, fn: Callable[..., Any], name: str | None = None, *about: Any, **more: Any) -> None:
        """Register a tool whose texts are taken as they were sent."""
        super().add_tool(fn, name, *about, **more)
        tool = self._tool_manager.get_tool(name or fn.__name__)
        assert tool is not None
        tool.fn_metadata = TakenAsSent.of(tool.fn_metadata)

    async def run_stdio_async(self) -> None:
        """Serve on stdin and stdout until stdin closes."""
        async with transport() as (incoming, outgoing):
            options = self._lowlevel_server.create_initialization_options()
            await self._lowlevel_server.run(incoming, outgoing, options)

    def only_reads(self, absent: Iterable[str]) -> None:
        """Say of every tool that it only reads; ``absent`` are the tools that a server which may write has besides."""
        self._absent = frozenset(absent)
        for tool in self._tool_manager.list_tools():
            assert tool.annotations is not None
            tool.annotations = tool.annotations.model_copy(update={"read_only_hint": True, "destructive_hint": False})

    async def list_tools(self) -> list[WireTool]:
        """Tools with slim, closed schemas and no indentation, ordered by name so that prompt caches hit."""
        tools = await super().list_tools()
        for tool in tools:
            tool.description = " ".join((tool.description or "").split())
            tool.input_schema = slim(copy.deepcopy(tool.input_schema)) | {"additionalProperties": False}
        return sorted(tools, key=lambda tool: tool.name)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Run a tool; every mistake of the caller becomes one error result that says what to do."""
        tool = self._tool_manager.get_tool(name)
        if tool is None:
            return refusal(self._no_such_tool(name), name, next_call="call one of the tools that are listed")
        unknown = _unknown_arguments(name, arguments, list(tool.parameters.get("properties", {})))
        if unknown is not None:
            return unknown
        try:
            work = super().call_tool(name, arguments, context)
            result = await (watched(context, name, work) if context is not None else work)
        except ToolError as error:
            result = _explain(name, arguments, error, tool.parameters.get("properties", {}))
        except FwError as error:
            result = refusal(error, name, next_call=error.hint)
        return self._within_reach(result) if isinstance(result, CallToolResult) else result

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """A prompt; a wrong name or a missing argument is the caller's mistake and says what there is."""
        known = {prompt.name: prompt for prompt in self._prompt_manager.list_prompts()}
        if name not in known:
            raise MCPError(INVALID_PARAMS, f"No prompt '{name}'. Prompts: {', '.join(known)}.")
        needed = [item.name for item in known[name].arguments or [] if item.required]
        if missing := [item for item in needed if item not in (arguments or {})]:
            raise MCPError(INVALID_PARAMS, f"The prompt '{name}' needs {', '.join(missing)}.")
        return await super().get_prompt(name, arguments, context)

    def _within_reach(self, result: CallToolResult) -> CallToolResult:
        """``result``, with a word in ``next`` if that names a tool which is not here."""
        following = str((result.structured_content or {}).get("next", ""))
        if not any(f"{name}(" in following for name in self._absent):
            return result
        return with_next(result, f"{following} (on a server that may write; this one only reads)")

    def _no_such_tool(self, name: str) -> FwError:
        if name in self._absent:
            return FwError(
                "permission_denied",
                f"'{name}' changes something, and this server only reads.",
                not_done=NOTHING_RUN,
                param="name",
            )
        known = sorted(tool.name for tool in self._tool_manager.list_tools())
        near = nearest(name, known)
        return FwError(
            "not_found",
            f"No tool '{name}'." + (f" Did you mean '{near}'?" if near else f" Tools: {', '.join(known)}."),
            not_done=NOTHING_RUN,
            param="name",
        )


def _unknown_arguments(tool: str, arguments: dict[str, Any], known: list[str]) -> CallToolResult | None:
    unknown = [key for key in arguments if key not in known]
    if not unknown:
        return None
    parts, names = [], dict[str, str]()
    for key in unknown:
        near = _meant(key, known)
        parts.append(f"unknown argument '{key}'" + (f" (did you mean '{near}'?)" if near else ""))
        names |= {key: near} if near else {}
    error = FwError(
        "invalid_argument",
        f"{tool}: {'; '.join(parts)}.",
        not_done=NOTHING_RUN,
        hint=f"arguments: {', '.join(known)}",
        param=unknown[0],
    )
    meant = renamed(tool, arguments, names) if len(names) == len(unknown) else ""
    return refusal(error, tool, next_call=meant or f"{tool}(...) with the arguments that it has")


def _meant(word: str, known: list[str]) -> str | None:
    """The known name that is close to ``word``, or abbreviated by it (``lr``), or a part of which it is."""
    short = (name for name in known if "".join(part[0] for part in name.split("_")) == word and len(word) > 1)
    part = (name for name in known if word in name.split("_"))
    return nearest(word, known) or next(short, None) or next(part, None)


def _explain(tool: str, arguments: dict[str, Any], error: ToolError, parameters: Mapping[str, Any]) -> CallToolResult:
    cause = error.__cause__
    if isinstance(cause, FwError):
        return refusal(cause, tool, next_call=corrected(tool, arguments, cause))
    if isinstance(cause, ValidationError):
        return refusal(_one_sentence(tool, cause, parameters), tool, next_call=f"{tool}(...) with that corrected")
    log.error("tool %s failed", tool, exc_info=cause or error)
    kind = type(cause).__name__ if cause else "error"
    bug = FwError("internal", f"{tool} failed with {kind}.", hint="the MCP server's stderr has the traceback")
    return refusal(bug, tool, next_call="overview()")


def _one_sentence(tool: str, error: ValidationError, parameters: Mapping[str, Any]) -> FwError:
    """What is wrong with each argument, with what the argument means where the schema says it."""
    parts = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        got = "" if item["type"] == "missing" else f", got {item['input']!r:.80}"
        meaning = parameters.get(where, {}).get("description", "")
        parts.append(f"{where}: {item['msg'].lower()}{got}" + (f" ({meaning})" if meaning else ""))
    first = error.errors()[0]["loc"]
    return FwError(
        "invalid_argument",
        f"{tool}: {'; '.join(parts)}.",
        not_done=NOTHING_RUN,
        param=str(first[0]) if first else None,
    )

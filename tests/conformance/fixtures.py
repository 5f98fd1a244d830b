"""The tools, resources and prompts that the conformance suites call by name, added to our own server class."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from mcp.server.mcpserver import AssistantMessage, Context, UserMessage
from mcp.server.mcpserver.resources import FunctionResource
from mcp.types import (
    AudioContent,
    CallToolResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from mcp.types import SamplingMessage as Sample

from fw_mcp.server import AgentServer
from fw_sdk.types import FwError

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="  # one red pixel
)
SILENCE = base64.b64encode(
    b"RIFF&\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0@\x1f\0\0\x80>\0\0\x02\0\x10\0data\x02\0\0\0\0\0"
).decode()

AnyContext = Context[Any, Any]


def said(*content: Any) -> CallToolResult:
    return CallToolResult(content=list(content))


def text(words: str) -> TextContent:
    return TextContent(type="text", text=words)


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=words))


def image() -> ImageContent:
    return ImageContent(type="image", data=PIXEL, mime_type="image/png")


def install(server: AgentServer) -> None:
    """Everything that revision 2025-11-25 of the suite asks for."""
    _add_contents(server)
    _add_conversations(server)
    _add_elicitations(server)
    _add_resources(server)
    _add_prompts(server)
    _add_legacy_methods(server)


def _add_contents(server: AgentServer) -> None:
    @server.tool()
    def test_simple_text() -> CallToolResult:
        """Text."""
        return said(text("This is a simple text response for testing."))

    @server.tool()
    def test_image_content() -> CallToolResult:
        """An image."""
        return said(image())

    @server.tool()
    def test_audio_content() -> CallToolResult:
        """A sound."""
        return said(AudioContent(type="audio", data=SILENCE, mime_type="audio/wav"))

    @server.tool()
    def test_embedded_resource() -> CallToolResult:
        """A resource."""
        return said(embedded("test://embedded-resource", "This is an embedded resource content."))

    @server.tool()
    def test_multiple_content_types() -> CallToolResult:
        """Text, an image and a resource."""
        data = json.dumps({"test": "data", "value": 123})
        mixed = embedded("test://mixed-content-resource", data, "application/json")
        return said(text("Multiple content types test:"), image(), mixed)

    @server.tool()
    def test_error_handling() -> CallToolResult:
        """An error."""
        raise FwError("failed_precondition", "This tool intentionally returns an error for testing")


def _add_conversations(server: AgentServer) -> None:
    @server.tool()
    async def test_tool_with_logging(ctx: AnyContext) -> CallToolResult:
        """Three log messages."""
        for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.log("info", words)
            await asyncio.sleep(0.05)
        return said(text("Tool with logging executed successfully"))

    @server.tool()
    async def test_tool_with_progress(ctx: AnyContext) -> CallToolResult:
        """Three progress notifications."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100, f"Completed step {done} of 100")
            await asyncio.sleep(0.05)
        return said(text("Tool with progress executed successfully"))

    @server.tool()
    async def test_sampling(prompt: str, ctx: AnyContext) -> CallToolResult:
        """Ask the client's model."""
        asked = [Sample(role="user", content=text(prompt))]
        # On this call's own stream: the client may not have opened the standing one yet.
        here = ctx.request_context.request_id
        answer = await ctx.session.create_message(messages=asked, max_tokens=100, related_request_id=here)
        words = answer.content.text if isinstance(answer.content, TextContent) else "no text"
        return said(text(f"LLM response: {words}"))

    @server.tool()
    async def test_reconnection(ctx: AnyContext) -> CallToolResult:
        """Close the stream, go on, and let the client fetch the rest."""
        await ctx.close_sse_stream()
        await asyncio.sleep(0.1)
        return said(text("Reconnection test completed"))


def _add_elicitations(server: AgentServer) -> None:
    @server.tool()
    async def test_elicitation(message: str, ctx: AnyContext) -> CallToolResult:
        """Ask the user."""
        fields = {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        }
        return await _elicited(ctx, message, fields, "User response")

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: AnyContext) -> CallToolResult:
        """Ask with defaults."""
        fields = {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        }
        return await _elicited(ctx, "Please provide user information", fields, "Elicitation completed", required=False)

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: AnyContext) -> CallToolResult:
        """Ask with every kind of choice."""
        options = ["option1", "option2", "option3"]
        titled = [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second"), 1)]
        fields = {
            "untitledSingle": {"type": "string", "enum": options},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        }
        return await _elicited(ctx, "Please choose", fields, "Elicitation completed", required=False)


async def _elicited(
    ctx: AnyContext, message: str, fields: dict[str, Any], label: str, *, required: bool = True
) -> CallToolResult:
    schema = {"type": "object", "properties": fields, "required": list(fields) if required else []}
    found = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_context.request_id)
    return said(text(f"{label}: action={found.action}, content={json.dumps(found.content)}"))


def _add_resources(server: AgentServer) -> None:
    def add(uri: str, read: Any, mime_type: str) -> None:
        server.add_resource(
            FunctionResource.from_function(read, uri=uri, name=uri, description="Fixture", mime_type=mime_type)
        )

    add("test://static-text", lambda: "This is the content of the static text resource.", "text/plain")
    add("test://static-binary", lambda: base64.b64decode(PIXEL), "image/png")
    add("test://watched-resource", lambda: "Watched resource content", "text/plain")

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:
        """A template."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _add_prompts(server: AgentServer) -> None:
    @server.prompt()
    def test_simple_prompt() -> list[UserMessage | AssistantMessage]:
        """Text."""
        return [UserMessage("This is a simple prompt for testing.")]

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage | AssistantMessage]:
        """Two arguments."""
        return [UserMessage(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage | AssistantMessage]:
        """A resource and text."""
        words = "Embedded resource content for testing."
        return [
            UserMessage(embedded(resourceUri, words)),
            UserMessage("Please process the embedded resource above."),
        ]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage | AssistantMessage]:
        """An image and text."""
        return [UserMessage(image()), UserMessage("Please analyze the image above.")]


def _add_legacy_methods(server: AgentServer) -> None:
    """Methods of older revisions that no client of ours needs; ``MCPServer`` has no public way to serve them."""

    async def accept(ctx: Any, params: Any) -> EmptyResult:
        return EmptyResult()

    low = server._lowlevel_server
    low.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)

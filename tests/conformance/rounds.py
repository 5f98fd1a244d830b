"""Fixtures of revision 2026-07-28: answers in several rounds, without a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp import MCPError
from mcp.server.mcpserver import Context, UserMessage
from mcp.types import (
    CallToolResult,
    ClientCapabilities,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    TextContent,
)

from fw_mcp.server import AgentServer

AnyContext = Context[Any, Any]
Round = CallToolResult | InputRequiredResult
MISSING_CAPABILITY = -32021


def form(message: str, **fields: str) -> ElicitRequest:
    properties = {name: {"type": kind} for name, kind in fields.items()}
    schema = {"type": "object", "properties": properties, "required": list(fields)}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(words: str, most: int) -> CreateMessageRequest:
    messages = [SamplingMessage(role="user", content=TextContent(type="text", text=words))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=most))


def ask(state: str | None = None, **requests: Any) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def done(words: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=words)])


def answers(ctx: AnyContext, *keys: str) -> list[Any] | None:
    """What the client answered to these questions; None while one of them is open."""
    given: Mapping[str, Any] = ctx.input_responses or {}
    return [given[key] for key in keys] if all(key in given for key in keys) else None


def install(server: AgentServer) -> None:
    """The tools and the prompt that ask back."""
    _add_single(server)
    _add_stateful(server)
    _add_checks(server)


def _add_single(server: AgentServer) -> None:
    @server.tool()
    async def test_input_required_result_elicitation(ctx: AnyContext) -> Round:
        """One question to the user."""
        found = answers(ctx, "user_name")
        if found is None:
            return ask(user_name=form("What is your name?", name="string"))
        return done(f"Hello, {(found[0].content or {}).get('name')}!")

    @server.tool()
    async def test_input_required_result_sampling(ctx: AnyContext) -> Round:
        """One question to the client's model."""
        found = answers(ctx, "capital_question")
        if found is None:
            return ask(capital_question=sample("What is the capital of France?", 100))
        return done(f"Model said: {found[0].content.text}")

    @server.tool()
    async def test_input_required_result_list_roots(ctx: AnyContext) -> Round:
        """The client's roots."""
        found = answers(ctx, "client_roots")
        if found is None:
            return ask(client_roots=ListRootsRequest())
        return done(f"Roots: {[str(root.uri) for root in found[0].roots]}")

    @server.prompt()
    async def test_input_required_result_prompt(ctx: AnyContext) -> list[UserMessage] | InputRequiredResult:
        """A prompt that asks first."""
        found = answers(ctx, "user_context")
        if found is None:
            return ask(user_context=form("What context should the prompt use?", context="string"))
        return [UserMessage(f"Use the context: {(found[0].content or {}).get('context')}")]


def _add_stateful(server: AgentServer) -> None:
    async def confirmed(ctx: AnyContext) -> Round:
        found = answers(ctx, "confirm")
        if found is None or ctx.request_state != "asked":
            return ask("asked", confirm=form("Please confirm", ok="boolean"))
        return done("state-ok: confirmed")

    @server.tool()
    async def test_input_required_result_request_state(ctx: AnyContext) -> Round:
        """State that comes back."""
        return await confirmed(ctx)

    @server.tool()
    async def test_input_required_result_tampered_state(ctx: AnyContext) -> Round:
        """State that must come back unchanged."""
        return await confirmed(ctx)

    @server.tool()
    async def test_input_required_result_multiple_inputs(ctx: AnyContext) -> Round:
        """Three questions at once."""
        found = answers(ctx, "user_name", "greeting", "client_roots")
        if found is None:
            return ask(
                "asked",
                user_name=form("What is your name?", name="string"),
                greeting=sample("Generate a greeting", 50),
                client_roots=ListRootsRequest(),
            )
        return done("All three were answered.")

    @server.tool()
    async def test_input_required_result_multi_round(ctx: AnyContext) -> Round:
        """Two questions, one after the other."""
        if ctx.request_state == "second" and answers(ctx, "step2") is not None:
            return done("Both steps were answered.")
        if ctx.request_state == "first" and answers(ctx, "step1") is not None:
            return ask("second", step2=form("Step 2: What is your favorite color?", color="string"))
        return ask("first", step1=form("Step 1: What is your name?", name="string"))


def _add_checks(server: AgentServer) -> None:
    @server.tool()
    async def test_input_required_result_capabilities(ctx: AnyContext) -> Round:
        """Only what the client can answer is asked."""
        can = ctx.client_capabilities or ClientCapabilities()
        questions: dict[str, Any] = {}
        if can.elicitation is not None:
            questions["user_name"] = form("What is your name?", name="string")
        if can.sampling is not None:
            questions["greeting"] = sample("Generate a greeting", 50)
        given = ctx.input_responses or {}
        return ask(**questions) if questions and not questions.keys() <= given.keys() else done("Nothing to ask.")

    @server.tool()
    async def test_missing_capability(ctx: AnyContext) -> CallToolResult:
        """Needs sampling."""
        if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
            needed = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_CAPABILITY, "This tool needs the sampling capability", needed)
        return done("The client can sample.")

    @server.tool()
    async def test_streaming_elicitation(ctx: AnyContext) -> Round:
        """Progress, then a question."""
        await ctx.report_progress(1, 2, "about to ask")
        found = answers(ctx, "user_name")
        return done("answered") if found else ask(user_name=form("What is your name?", name="string"))

    @server.tool()
    async def test_logging_tool(ctx: AnyContext) -> CallToolResult:
        """A log message, for those who asked for it."""
        await ctx.log("info", "logged")
        return done("logged")

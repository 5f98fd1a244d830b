"""What an agent sees before it calls anything, and how mistakes in a call are answered; no daemon is reached."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.types import CallToolResult, ResourceTemplateReference, Tool
from starlette.testclient import TestClient

from fw_mcp.app import INSTRUCTIONS, build_server
from fw_mcp.http import Access, create_mcp_app
from fw_mcp.library import pages
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from tests.tokens import count_tokens

ERAS = ["auto", "legacy"]
NAMES = [
    "compare",
    "customize",
    "dataset",
    "deploy",
    "docs_search",
    "evaluate",
    "evaluator_check",
    "finetune",
    "generate",
    "job_cancel",
    "job_get",
    "job_wait",
    "model_pull",
    "overview",
]


async def nowhere() -> AsyncClient:
    return AsyncClient("http://127.0.0.1:1", "no-token", max_retries=0)


def with_client(mode: str, folder: Path, use: Any) -> Any:
    async def main() -> Any:
        async with Client(build_server(nowhere, Workspace(folder)), mode=mode) as client:
            return await use(client)

    return asyncio.run(main())


def tools(mode: str, folder: Path) -> list[Tool]:
    async def use(client: Client) -> list[Tool]:
        return list((await client.list_tools()).tools)

    return with_client(mode, folder, use)


def call(folder: Path, tool: str, /, **arguments: Any) -> CallToolResult:
    async def use(client: Client) -> CallToolResult:
        return await client.call_tool(tool, arguments)

    return with_client("auto", folder, use)


def text(result: CallToolResult) -> str:
    return result.content[0].text


@pytest.mark.parametrize("mode", ERAS)
def test_tools_are_few_in_a_fixed_order_and_cheap(mode: str, tmp_path: Path) -> None:
    found = tools(mode, tmp_path)
    assert [tool.name for tool in found] == NAMES
    shown = [{"name": t.name, "description": t.description, "inputSchema": t.input_schema} for t in found]
    assert sum(count_tokens(json.dumps(tool, separators=(",", ":"))) for tool in shown) <= 2_500
    for tool in found:
        assert 0 < len(tool.description or "") < 500, tool.name
        assert tool.input_schema["additionalProperties"] is False
        hints = tool.annotations
        assert hints is not None and None not in (
            hints.read_only_hint,
            hints.destructive_hint,
            hints.idempotent_hint,
            hints.open_world_hint,
        )


def test_schemas_carry_no_noise(tmp_path: Path) -> None:
    for tool in tools("auto", tmp_path):
        schema = json.dumps(tool.input_schema)
        assert '"title"' not in schema and '"null"' not in schema, tool.name
        assert not {"anyOf", "oneOf", "allOf", "$ref"} & set(tool.input_schema), tool.name
    generate = next(tool for tool in tools("auto", tmp_path) if tool.name == "generate")
    assert generate.input_schema["properties"]["prompts"]["items"] == {"type": "string"}
    assert generate.input_schema["properties"]["prompts"]["maxItems"] == 16


@pytest.mark.parametrize("mode", ERAS)
def test_instructions_stand_alone(mode: str, tmp_path: Path) -> None:
    async def use(client: Client) -> str | None:
        return client.instructions

    assert with_client(mode, tmp_path, use) == INSTRUCTIONS
    assert len(INSTRUCTIONS) <= 2_048
    assert all(name in INSTRUCTIONS for name in ("customize", "job_wait", "generate", "overview", "docs_search"))


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        (
            "customize",
            {"data": "x", "evaluator": "y", "lr": 0.1},
            "unknown argument 'lr' (did you mean 'learning_rate'?)",
        ),
        ("job_wait", {"id": "x"}, "unknown argument 'id' (did you mean 'job_id'?)"),
        ("overview", {"zzz": 1}, "arguments: only, grep, detail, cursor"),
        ("generate", {"model": "m", "prompts": ["a"], "max_tokens": 0}, "max_tokens: input should be greater"),
        ("customize", {"data": "x"}, "evaluator: field required"),
        ("custmize", {}, "No tool 'custmize'. Did you mean 'customize'?"),
        ("deploy", {"model": "m", "action": "restart"}, "action: input should be 'start' or 'stop', got 'restart'"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_runs_nothing(
    tool: str, arguments: dict[str, Any], says: str, tmp_path: Path
) -> None:
    result = call(tmp_path, tool, **arguments)
    assert result.is_error
    assert says in text(result) and "Nothing was run." in text(result)
    assert "pydantic" not in text(result) and "Arguments" not in text(result).split("\n")[0].split("arguments:")[0]
    assert result.structured_content["code"] in ("invalid_argument", "not_found")
    assert result.structured_content["next"]


def test_an_error_says_the_same_in_text_and_fields(tmp_path: Path) -> None:
    result = call(tmp_path, "overview")
    fields = result.structured_content
    assert result.is_error and fields["code"] == "unavailable" and fields["retryable"] is True
    assert fields["message"] in text(result) and fields["next"] in text(result) and '"retryable": true' in text(result)


def test_stopping_needs_the_id_twice(tmp_path: Path) -> None:
    for arguments in ({}, {"name": "d"}, {"name": "d", "confirm": "e"}, {"confirm": "d"}):
        result = call(tmp_path, "deploy", action="stop", **arguments)
        assert result.is_error and result.structured_content["code"] == "invalid_argument"
        assert "Nothing was stopped." in text(result)


def test_cancelling_needs_the_id_twice(tmp_path: Path) -> None:
    for arguments in ({"job_id": "j"}, {"job_id": "j", "confirm": "k"}):
        result = call(tmp_path, "job_cancel", **arguments)
        assert result.is_error and "Nothing was cancelled." in text(result)
        assert result.structured_content["next"] == "job_cancel(job_id='j', confirm='j')"


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    result = call(tmp_path, "job_get", job_id="j", view="logs", grep="(")
    assert result.is_error and result.structured_content["param"] == "grep"


def test_a_path_cannot_leave_the_workspace(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir(), outside.mkdir()
    (outside / "secret.jsonl").write_text("{}")
    (inside / "link.jsonl").symlink_to(outside / "secret.jsonl")
    for path in ("../out/secret.jsonl", str(outside / "secret.jsonl"), "link.jsonl"):
        for tool, arguments in {
            "dataset": {"path": path},
            "customize": {"data": path, "evaluator": "def evaluate(messages, **row): return 0.0"},
        }.items():
            result = call(inside, tool, **arguments)
            assert result.is_error
            if tool == "dataset":
                assert result.structured_content["code"] == "permission_denied"
                assert "copy the file into the workspace" in result.structured_content["next"]


def test_a_missing_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}\n")
    assert "Did you mean 'data/train.jsonl'?" in text(call(tmp_path, "dataset", path="data/trian.jsonl"))
    assert "Did you mean 'data/train.jsonl'?" in text(call(tmp_path, "dataset", path="train.jsonl"))


@pytest.mark.parametrize("mode", ERAS)
def test_pages_are_resources_with_completion(mode: str, tmp_path: Path) -> None:
    async def use(client: Client) -> None:
        uris = [str(item.uri) for item in (await client.list_resources()).resources]
        assert [uri for uri in uris if not uri.startswith("skill://fw/")] == ["docs://index"]
        index = (await client.read_resource("docs://index")).contents[0].text
        assert all(f"docs://{page}: " in index for page in pages())
        page = (await client.read_resource("docs://quickstart")).contents[0].text
        assert page == pages()["quickstart"]
        template = (await client.list_resource_templates()).resource_templates[0]
        reference = ResourceTemplateReference(type="ref/resource", uri=template.uri_template)
        done = await client.complete(reference, {"name": "page", "value": "eva"})
        assert done.completion.values == ["evaluation", "evaluators"]
        for hostile in ("docs://nothing", "docs://..%2Fpyproject", "docs://../README"):
            with pytest.raises(Exception, match=r"No docs page|nknown|not found"):
                await client.read_resource(hostile)

    with_client(mode, tmp_path, use)


@pytest.mark.parametrize("mode", ERAS)
def test_the_prompt_names_the_tools(mode: str, tmp_path: Path) -> None:
    async def use(client: Client) -> str:
        found = await client.get_prompt("customize", {"task": "extract dates", "data": "d.jsonl"})
        return found.messages[0].content.text

    prompt = with_client(mode, tmp_path, use)
    assert "extract dates" in prompt and "d.jsonl" in prompt and "dry_run=true" in prompt


@pytest.mark.parametrize("mode", ERAS)
def test_the_other_prompt_looks_into_a_job(mode: str, tmp_path: Path) -> None:
    async def use(client: Client) -> str:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["customize", "diagnose"]
        return (await client.get_prompt("diagnose", {"job_id": "train-1"})).messages[0].content.text

    prompt = with_client(mode, tmp_path, use)
    assert "job_get(job_id='train-1')" in prompt and "evaluator_check" in prompt


@pytest.mark.parametrize("mode", ERAS)
def test_a_wrong_prompt_says_which_there_are(mode: str, tmp_path: Path) -> None:
    async def use(client: Client) -> None:
        with pytest.raises(MCPError, match=r"No prompt 'custom'\. Prompts: customize, diagnose\."):
            await client.get_prompt("custom")
        with pytest.raises(MCPError, match=r"The prompt 'customize' needs task\."):
            await client.get_prompt("customize", {"data": "d.jsonl"})

    with_client(mode, tmp_path, use)


def test_docs_search_over_the_tool(tmp_path: Path) -> None:
    fields = call(tmp_path, "docs_search", query="gate not met").structured_content
    assert fields["results"][0]["page"] == "docs://deployments" or fields["results"][0]["page"] == "docs://errors"
    assert "docs://" in fields["next"]
    nothing = call(tmp_path, "docs_search", query="zzzzqqq").structured_content
    assert nothing["pages"] == list(pages()) and nothing["not_in_any_page"] == ["zzzzqqq"] and nothing["next"]
    little = call(tmp_path, "docs_search", query="kubernetes helm quorum of a job").structured_content
    assert "results" not in little and little["not_in_any_page"] == ["kubernetes", "helm", "quorum"]
    partly = call(tmp_path, "docs_search", query="zzzzqqq learning rate lora_rank").structured_content
    assert partly["results"] and partly["not_in_any_page"] == ["zzzzqqq"] and "not_in_any_page" in partly["next"]
    row = call(tmp_path, "docs_search", query="lora_rank", limit=10).structured_content["results"]
    assert {"heading": "Settings", "row": "`lora_rank`"}.items() <= row[0].items()


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, 200),
        ({"Authorization": "bearer reads"}, 200),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic right"}, 401),
        ({"Host": "evil.example:80"}, 421),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
def test_the_http_app_by_itself_refuses_strangers(changed: dict[str, str], status: int, tmp_path: Path) -> None:
    app = create_mcp_app(Access(lambda: "right", nowhere), Access(lambda: "reads", nowhere), Workspace(tmp_path))
    headers = {
        "Authorization": "bearer right",
        "Host": "127.0.0.1:80",
        "Accept": "application/json, text/event-stream",
        **changed,
    }
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    with TestClient(app) as http:
        reply = http.post("/mcp", json=body, headers=headers)
    assert reply.status_code == status
    assert ("serverInfo" in reply.text) == (status == 200)
    assert ("This server only reads" in reply.text) == (headers["Authorization"] == "bearer reads")


@pytest.mark.parametrize(
    ("tool", "arguments", "next_call"),
    [
        ("dataset", {"path": "data/trian.jsonl", "save": True}, "dataset(path='data/train.jsonl', save=true)"),
        ("dataset", {"path": "training.jsonl"}, "dataset(path='data/train.jsonl')"),
        ("dataset", {"path": "train.csv"}, "give a path relative to the workspace, for example 'data/train.jsonl'"),
        (
            "customize",
            {"data": "d", "evaluator": "e", "lr": 0.1},
            "customize(data='d', evaluator='e', learning_rate=0.1)",
        ),
        ("overview", {"zzz": 1}, "overview(...) with the arguments that it has"),
        ("dataset", {"path": "data/train.jsonl", "pahts": 1}, "dataset(...) with the arguments that it has"),
        (
            "evaluator_check",
            {"evaluator": "def evaluate(messages): return 0.0" + " " * 400, "dta": "x"},
            "evaluator_check(data='x', ...) with the other arguments kept",
        ),
    ],
)
def test_an_error_that_knows_better_writes_the_call(
    tool: str, arguments: dict[str, Any], next_call: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}\n")
    result = call(tmp_path, tool, **arguments)
    assert result.is_error and result.structured_content["next"] == next_call
    assert next_call in text(result)

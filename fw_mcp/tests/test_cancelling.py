"""A long call says that it lives, ends in time where nobody is shown that, and what it began ends with it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client

from fw_mcp import platform as bounds
from fw_mcp.tests.conftest import ERAS, TRANSPORTS, Daemon
from fw_sdk.client import Client as SdkClient

EVERYWHERE = pytest.mark.parametrize(("transport", "mode"), [(way, era) for way in TRANSPORTS for era in ERAS])
SLOW = """
import time

def evaluate(messages, ground_truth=None, **row):
    time.sleep(4)
    return 1.0
"""
CHECK = {"evaluator": "slow.py", "data": "slow.jsonl", "limit": 9}


@pytest.fixture
def slow(daemon: Daemon) -> dict[str, Any]:
    """Arguments of a check that lasts more than half a minute."""
    (daemon.workspace / "slow.py").write_text(SLOW)
    rows = [
        {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "b"}]} for n in range(9)
    ]
    (daemon.workspace / "slow.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CHECK


def evaluators() -> set[int]:
    """Processes of evaluators on this machine."""
    found = set[int]()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"evaluator_child.py" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found


async def until(condition: Any, limit_s: float = 30) -> None:
    """Wait until something holds; the limit is far beyond what it takes."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.1)


@EVERYWHERE
def test_a_check_shows_that_it_lives_and_ends_when_its_client_cancels(
    transport: str, mode: str, daemon: Daemon, slow: dict[str, Any]
) -> None:
    seen: list[float] = []
    before = evaluators()

    async def note(done: float, total: float | None, message: str | None) -> None:
        assert message and "evaluator_check still runs" in message
        seen.append(done)

    async def main() -> None:
        async with TRANSPORTS[transport](daemon, mode) as client:
            call = asyncio.create_task(client.call_tool("evaluator_check", slow, progress_callback=note))
            await until(lambda: len(seen) >= 2)
            assert evaluators() - before and not call.done()
            call.cancel()
            await asyncio.wait({call})
            await until(lambda: not evaluators() - before)
            assert not (await client.call_tool("overview", {})).is_error

    asyncio.run(main())
    assert all(one < other for one, other in pairwise(seen))


def test_a_client_that_shows_nothing_gets_an_answer_in_time(
    daemon: Daemon, slow: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One and a half seconds for 50: the rule is the same."""
    monkeypatch.setattr(bounds, "SILENT_CALL_S", 1.5)
    before = evaluators()

    async def main() -> Any:
        async with Client(daemon.server()) as client:
            result = await client.call_tool("evaluator_check", slow)
            await until(lambda: not evaluators() - before)
            return result

    result = asyncio.run(main())
    assert result.is_error and result.structured_content["code"] == "deadline_exceeded"
    assert "smaller limit" in result.structured_content["next"] and "stopped" in result.structured_content["notDone"]


def test_signs_of_life_are_less_than_ten_seconds_apart() -> None:
    assert bounds.ALIVE_EVERY_S + bounds.REPORT_EVERY_S < 10 and bounds.SILENT_CALL_S <= 50
    assert bounds.SHORT_WAIT_S < bounds.SILENT_CALL_S


@pytest.mark.parametrize("version", ["2025-06-18", "2026-07-28"])
def test_what_a_call_began_ends_when_its_http_client_disconnects(
    version: str, daemon: Daemon, slow: dict[str, Any]
) -> None:
    before = evaluators()
    params: dict[str, Any] = {"name": "evaluator_check", "arguments": slow}
    headers = {
        "Authorization": f"Bearer {daemon.home.token()}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": version,
    }

    async def main() -> None:
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
            if version == "2025-06-18":
                hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
                opened = await http.post(f"{daemon.url}/mcp", json=request(1, "initialize", hello))
                http.headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
                ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
                await http.post(f"{daemon.url}/mcp", json=ready)
            else:
                http.headers |= {"Mcp-Method": "tools/call", "Mcp-Name": "evaluator_check"}
                params["_meta"] = {
                    "io.modelcontextprotocol/protocolVersion": version,
                    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
                    "io.modelcontextprotocol/clientCapabilities": {},
                }
            call = asyncio.create_task(http.post(f"{daemon.url}/mcp", json=request(2, "tools/call", params)))
            await until(lambda: evaluators() - before)
            call.cancel()
            await asyncio.wait({call})
            await until(lambda: not evaluators() - before)

    asyncio.run(main())


def request(identifier: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}


@pytest.fixture
def sdk(daemon: Daemon) -> Iterator[SdkClient]:
    with SdkClient(daemon.url, daemon.home.token()) as client:
        yield client


def pull_of(sdk: SdkClient, source: str) -> Any:
    return next((job for job in sdk.jobs.list() if job.display_name == f"pull {source}"), None)


@EVERYWHERE
def test_a_pull_that_a_cancelled_call_began_is_cancelled(
    transport: str, mode: str, daemon: Daemon, sdk: SdkClient
) -> None:
    source = f"hf:org/own-{transport}-{mode}"

    async def main() -> None:
        async with TRANSPORTS[transport](daemon, mode) as client:
            arguments = {"data": "train.jsonl", "base_model": source}
            call = asyncio.create_task(client.call_tool("finetune", arguments))
            await until(lambda: pull_of(sdk, source) is not None)
            call.cancel()
            await asyncio.wait({call})
            await until(lambda: pull_of(sdk, source).state.ended)

    asyncio.run(main())
    assert pull_of(sdk, source).state.value.endswith("CANCELLED")


@EVERYWHERE
def test_a_pull_that_somebody_was_told_of_goes_on(transport: str, mode: str, daemon: Daemon, sdk: SdkClient) -> None:
    source = f"hf:org/told-{transport}-{mode}"

    async def main() -> None:
        async with TRANSPORTS[transport](daemon, mode) as client:
            arguments = {"data": "train.jsonl", "base_model": source}
            call = asyncio.create_task(client.call_tool("finetune", arguments))
            await until(lambda: pull_of(sdk, source) is not None)
            told = (await client.call_tool("model_pull", {"source": source})).structured_content
            assert told["job_id"] == pull_of(sdk, source).id
            assert told["next"] == f"job_wait(job_id='{told['job_id']}')" and told["state"] in ("pending", "running")
            call.cancel()
            await asyncio.wait({call})
            looked = await client.call_tool("job_wait", {"job_id": told["job_id"], "timeout_s": 3})
            assert looked.structured_content["state"] in ("pending", "running")

    try:
        asyncio.run(main())
    finally:
        sdk.jobs.cancel(pull_of(sdk, source).id)
        sdk.jobs.wait(pull_of(sdk, source).id)

"""A job that lasts: progress, bounds on waiting, cancelling, and what a person is helped to type; over every way in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from mcp import Client
from mcp.types import PromptReference, ResourceTemplateReference

from fw_mcp import platform as bounds
from fw_mcp.app import build_server
from fw_mcp.tests.conftest import ERAS, TRANSPORTS, Daemon
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.client import Client as SdkClient

EVERYWHERE = pytest.mark.parametrize(("transport", "mode"), [(way, era) for way in TRANSPORTS for era in ERAS])


@pytest.fixture
def lasting(daemon: Daemon) -> Iterator[str]:
    """A job that downloads a byte at a time."""
    with SdkClient(daemon.url, daemon.home.token()) as client:
        model = client.models.pull("hf:org/slow")
        job = str(model.job).rsplit("/", 1)[-1]
        yield job
        client.jobs.cancel(job)
        client.jobs.wait(job)


@EVERYWHERE
def test_waiting_shows_progress_at_once_and_then_every_few_seconds(
    transport: str, mode: str, daemon: Daemon, lasting: str
) -> None:
    seen: list[tuple[float, float]] = []

    async def main() -> dict[str, Any]:
        async with TRANSPORTS[transport](daemon, mode) as client:
            began = time.monotonic()

            async def note(done: float, total: float | None, message: str | None) -> None:
                seen.append((time.monotonic() - began, done))

            arguments = {"job_id": lasting, "timeout_s": 3}
            result = await client.call_tool("job_wait", arguments, progress_callback=note)
            assert 2.8 < time.monotonic() - began < 15
            return result.structured_content

    fields = asyncio.run(main())
    assert fields["state"] in ("pending", "running") and fields["waited_s"] == 3.0
    assert fields["next"] == f"job_wait(job_id='{lasting}')"
    assert seen[0][0] < 2 and len(seen) >= 2
    assert all(later[0] - earlier[0] < 4 and later[1] > earlier[1] for earlier, later in pairwise(seen))


@pytest.mark.parametrize(("shows_progress", "waits"), [(False, 0.5), (True, 1.5)])
def test_a_wait_is_short_where_silence_would_end_the_call(
    shows_progress: bool, waits: float, daemon: Daemon, lasting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a second for 45 s and one and a half for 600 s: the rule is the same."""
    monkeypatch.setattr(bounds, "SHORT_WAIT_S", 0.5)
    monkeypatch.setattr(bounds, "LONG_WAIT_S", 1.5)

    async def connect() -> AsyncClient:
        return AsyncClient(daemon.url, daemon.home.token())

    async def note(done: float, total: float | None, message: str | None) -> None:
        pass

    async def main() -> dict[str, Any]:
        server = build_server(connect, Workspace(daemon.workspace))
        async with Client(server, mode="legacy") as client:  # in memory the other era sends no progress token
            callback = note if shows_progress else None
            arguments = {"job_id": lasting, "timeout_s": 600}
            return (await client.call_tool("job_wait", arguments, progress_callback=callback)).structured_content

    assert asyncio.run(main())["waited_s"] == waits


@EVERYWHERE
def test_a_client_that_gives_up_leaves_the_job_and_the_connection_alone(
    transport: str, mode: str, daemon: Daemon, lasting: str
) -> None:
    async def main() -> None:
        async with TRANSPORTS[transport](daemon, mode) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.call_tool("job_wait", {"job_id": lasting, "timeout_s": 40}), 1.5)
            began = time.monotonic()
            looked = await client.call_tool("job_get", {"job_id": lasting})
            assert looked.structured_content["state"] in ("pending", "running")
            assert time.monotonic() - began < 10

    asyncio.run(main())


def test_an_empty_log_says_what_the_job_does(daemon: Daemon, lasting: str) -> None:
    async def main() -> None:
        async with Client(daemon.server()) as client:
            shown = (await client.call_tool("job_get", {"job_id": lasting, "view": "logs"})).structured_content
            assert "nothing so far" in shown["note"] or "not begun" in shown["note"]
            assert shown["next"] == f"job_wait(job_id='{lasting}')"

    asyncio.run(main())


@EVERYWHERE
def test_a_cancelled_job_ends_and_the_same_call_starts_no_second_one(transport: str, mode: str, daemon: Daemon) -> None:
    async def main() -> None:
        async with TRANSPORTS[transport](daemon, mode) as client:
            with SdkClient(daemon.url, daemon.home.token()) as sdk:
                jobs = {str(sdk.models.pull("hf:org/twice").job).rsplit("/", 1)[-1] for _ in range(2)}
            assert len(jobs) == 1
            job = jobs.pop()
            refused = await client.call_tool("job_cancel", {"job_id": job})
            assert (
                refused.is_error
                and refused.structured_content["next"] == f"job_cancel(job_id='{job}', confirm='{job}')"
            )
            cancelled = await client.call_tool("job_cancel", {"job_id": job, "confirm": job})
            assert cancelled.structured_content["next"].startswith(f"job_wait(job_id='{job}')")
            ended = await client.call_tool("job_wait", {"job_id": job, "timeout_s": 40})
            assert ended.structured_content["state"] == "cancelled"
            again = await client.call_tool("job_cancel", {"job_id": job, "confirm": job})
            assert not again.is_error and again.structured_content["note"] == "it had ended already"

    asyncio.run(main())


@EVERYWHERE
def test_templates_prompts_and_what_completes_them(transport: str, mode: str, daemon: Daemon, lasting: str) -> None:
    async def main() -> None:
        async with TRANSPORTS[transport](daemon, mode) as client:
            templates = [item.uri_template for item in (await client.list_resource_templates()).resource_templates]
            assert {"docs://{page}", "picture://comparisons/{comparison}"} <= set(templates)

            async def completed(reference: Any, name: str, value: str) -> list[str]:
                found = await client.complete(reference, {"name": name, "value": value})
                return list(found.completion.values)

            prompts = {name: PromptReference(type="ref/prompt", name=name) for name in ("customize", "diagnose")}
            assert lasting in await completed(prompts["diagnose"], "job_id", lasting[:6])
            assert await completed(prompts["diagnose"], "job_id", "nothing-like-it") == []
            assert await completed(prompts["customize"], "data", "held") == ["heldout.jsonl"]
            assert await completed(prompts["customize"], "task", "a") == []
            pictures = ResourceTemplateReference(type="ref/resource", uri="picture://comparisons/{comparison}")
            assert await completed(pictures, "comparison", "nothing-like-it") == []
            with pytest.raises(Exception, match=r"overview\(only='comparisons'\)"):
                await client.read_resource("picture://comparisons/nope")
            diagnosis = await client.get_prompt("diagnose", {"job_id": lasting})
            assert f"job_get(job_id='{lasting}')" in diagnosis.messages[0].content.text

    asyncio.run(main())

"""The same loop through MCP over stdio, MCP over HTTP, the SDK and the CLI, each with real processes."""

from __future__ import annotations

import asyncio
import base64
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ResourceTemplateReference

import fw_sdk as fw
from tests.e2e.place import BASE, Place, check_outcome, check_store

pytestmark = pytest.mark.model

LOOP = {
    "data": "train.jsonl",
    "heldout": "heldout.jsonl",
    "evaluator": "evaluator.py",
    "base_model": BASE,
    "epochs": 1,
    "few_shot": 0,
    "max_tokens": 64,
}
QUESTION = "Function: {}\nQuestion: hello"


async def drive(client: Client) -> dict[str, Any]:
    """The four calls of an agent; the fields of the job that ended."""
    plan = await call(client, "customize", **LOOP, dry_run=True)
    assert plan["started"] is False and plan["training"]["steps"] >= 1 and plan["scored_rows"] == 8
    assert plan["overlap"]["shared_prompts"] == 0
    started = await call(client, "customize", **LOOP)
    again = await call(client, "customize", **LOOP)
    assert f"evaluator '{plan['evaluator']}'" in plan["stored"] and plan["data"]["id"] in plan["stored"]
    assert again["job_id"] == started["job_id"] == plan["would_start"]
    assert f"job_wait(job_id='{started['job_id']}')" in started["next"]
    messages: list[str] = []
    ended = await wait_for(client, started["job_id"], messages)
    assert any(message.startswith("finetune: ") for message in messages)
    return ended


async def wait_for(client: Client, job_id: str, messages: list[str]) -> dict[str, Any]:
    """Call ``job_wait`` until the job has ended; within each call progress only grows."""
    for _ in range(8):
        seen: list[float] = []

        async def note(done: float, total: float | None, message: str | None, seen: list[float] = seen) -> None:
            seen.append(done)
            messages.append(message or "")

        job = await call(client, "job_wait", job_id=job_id, timeout_s=50, progress=note)
        assert seen and all(earlier < later for earlier, later in pairwise(seen))
        if job["state"] not in ("pending", "running"):
            return job
    raise AssertionError(f"{job_id} did not end: {job}")


async def call(client: Client, tool: str, *, progress: Any = None, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments, progress_callback=progress)
    assert not result.is_error, result.content[0].text
    assert result.structured_content["next"]
    return result.structured_content


async def try_out(client: Client, name: str) -> None:
    """Ask the tuned model, and see it in the overview."""
    answered = await call(client, "generate", model=name, prompts=[QUESTION, "Say hi."], max_tokens=8)
    assert len(answered["answers"]) == 2 and all(answer.startswith("<<untrusted") for answer in answered["answers"])
    assert answered["cut_at_max_tokens"][name] and "max_tokens=32" in answered["next"]
    both = await call(client, "generate", model=name, against=BASE, prompts=[QUESTION], max_tokens=8)
    assert len(both["answers"]) == len(both["against"]["answers"]) == 1 and both["same_answers"] in (0, 1)
    overview = await call(client, "overview")
    assert overview["jobs"] and overview["models"]
    jobs = await call(client, "overview", only="jobs", grep="evaluate", detail="full", cursor=1)
    assert jobs["total"] >= 2 and len(jobs["jobs"]) == jobs["total"] - 1
    assert all(job["kind"] == "evaluate" and job["created"] for job in jobs["jobs"])


def check_end(place: Place, ended: dict[str, Any]) -> str:
    """The stored pipeline is sound and says what the tool said; the name to ask."""
    with place.client() as client:
        pipeline = client.pipelines.get(ended["job_id"])
        name = check_outcome(place, client, pipeline)
        check_store(place, client)
    said = ended["outcome"]["comparison"]
    stored = pipeline.outcome.comparison
    assert (said["verdict"], said["n"], said["wins"]) == (stored.verdict, stored.n, stored.wins)
    assert said["delta"] == pytest.approx(stored.delta, abs=1e-4)
    return name


async def look_into(client: Client, job_id: str) -> None:
    """The views of ``job_get``, of the pipeline's parts."""
    metrics = await call(client, "job_get", job_id=job_id, view="metrics")
    assert metrics["steps"] and len(metrics["loss"]) == len(metrics["steps"])
    assert metrics["loss_first_last"][1] < metrics["loss_first_last"][0]
    samples = await call(client, "job_get", job_id=job_id, view="samples", limit=3)
    scores = [sample["score"] for sample in samples["samples"]]
    assert samples["matching"] == 8 and len(scores) == 3 and scores == sorted(scores)
    assert "cursor=3" in samples["next"]
    assert all(sample["asked"] and sample["wanted"] for sample in samples["samples"])
    rest = await call(client, "job_get", job_id=job_id, view="samples", limit=200, cursor=3)
    assert len(rest["samples"]) == 5
    nothing = await call(client, "job_get", job_id=job_id, view="samples", grep="no such answer")
    assert nothing["matching"] == 0
    await call(client, "job_get", job_id=job_id, view="logs")
    brief = await call(client, "job_get", job_id=job_id)
    whole = await call(client, "job_get", job_id=job_id, detail="full")
    assert "cost" not in brief["outcome"]["comparison"] and "seconds" not in brief["outcome"]
    assert whole["outcome"]["comparison"]["cost"] and whole["steps"]["finetune"]["job_id"]
    sides = [brief["outcome"]["comparison"][side]["evaluation"] for side in ("baseline", "candidate")]
    compared = await call(client, "compare", baseline=sides[0], candidate=sides[1], detail="full")
    assert compared["rows_in_all"] == compared["wins"] + compared["losses"] == len(compared["rows"])
    assert all(row["scores"][0] != row["scores"][1] and row["asked"] for row in compared["rows"])
    await see_the_picture(client, compared["picture"], sides)


async def see_the_picture(client: Client, uri: str, sides: list[str]) -> None:
    """The same PNG beside the result and as a resource, whose name completes."""
    result = await client.call_tool("compare", {"baseline": sides[0], "candidate": sides[1], "detail": "full"})
    shown = result.content[1]
    assert shown.type == "image" and shown.mime_type == "image/png"
    read = (await client.read_resource(uri)).contents[0]
    assert base64.b64decode(shown.data) == base64.b64decode(read.blob) and read.mime_type == "image/png"
    assert base64.b64decode(read.blob).startswith(b"\x89PNG")
    template = ResourceTemplateReference(type="ref/resource", uri="picture://comparisons/{comparison}")
    name = uri.rsplit("/", 1)[-1]
    assert name in (await client.complete(template, {"name": "comparison", "value": name[:4]})).completion.values


async def replace_and_go_back(client: Client, tuned: str) -> None:
    """A name that serves one model serves another only on evidence and confirmed; the answer's call goes back."""

    async def refused(**arguments: Any) -> dict[str, Any]:
        result = await client.call_tool("deploy", {"model": BASE, "name": "swap", **arguments})
        assert result.is_error and f"'{tuned}' is still served" in result.content[0].text
        return result.structured_content

    assert (await call(client, "deploy", model=tuned, name="swap", force=True))["model"] == tuned
    assert (await call(client, "deploy", model=tuned, name="swap"))["note"] == "served already"
    unproven = await refused()
    assert unproven["code"] == "gate_not_met" and "compare(" in unproven["next"]
    unconfirmed = await refused(force=True)
    assert unconfirmed["param"] == "confirm" and "confirm='swap'" in unconfirmed["next"]
    swapped = await call(client, "deploy", model=BASE, name="swap", force=True, confirm="swap")
    assert (swapped["model"], swapped["replaced"], swapped["state"]) == (BASE, tuned, "READY")
    assert swapped["go_back"] == f"deploy(model='{tuned}', name='swap', force=true, confirm='swap')"
    back = await call(client, "deploy", model=tuned, name="swap", force=True, confirm="swap")
    assert (back["model"], back["replaced"]) == (tuned, BASE)
    await call(client, "deploy", action="stop", name="swap", confirm="swap")


async def step_by_step(client: Client) -> str:
    """The loop's parts alone: train, cancel, go on, score. Returns the adapter."""
    training = {"data": "train.jsonl", "base_model": BASE, "split": "all", "epochs": 1, "seed": 7}
    plan = await call(client, "finetune", **training, dry_run=True)
    started = await call(client, "finetune", **training)
    assert started["job_id"] == plan["would_start"]
    cancelled = await call(client, "job_cancel", job_id=started["job_id"], confirm=started["job_id"])
    assert cancelled["job_id"] == started["job_id"]
    assert (await wait_for(client, started["job_id"], []))["state"] in ("cancelled", "completed")
    again = await call(client, "finetune", **training)
    assert again["job_id"] == started["job_id"]
    ended = await wait_for(client, started["job_id"], [])
    assert ended["state"] == "completed" and ended["model"] == started["model"]
    scoring = {"data": "heldout.jsonl", "evaluator": "evaluator.py", "split": "all", "limit": 3, "max_tokens": 32}
    plan = await call(client, "evaluate", model=ended["model"], **scoring, dry_run=True)
    assert plan["scoring"]["rows"] == 3 and plan["scoring"]["seconds"] > 0 and plan["started"] is False
    scored = await call(client, "evaluate", model=ended["model"], **scoring)
    assert scored["job_id"] == plan["would_start"]
    score = (await wait_for(client, scored["job_id"], []))["score"]
    assert score["n"] == 3 and score["ci95"][0] <= score["mean"] <= score["ci95"][1]
    return str(ended["model"])


def test_mcp_over_stdio(place: Place, starter_gguf: Path) -> None:
    """``fw mcp`` starts the daemon by itself, and leaves it running when it ends."""
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "fw_sdk.cli", "mcp"], env=place.environment, cwd=place.workspace
    )

    async def main() -> None:
        async with Client(server) as client:
            await call(client, "overview")
            place.pull(starter_gguf)
            ended = await drive(client)
            await try_out(client, check_end(place, ended))

    asyncio.run(main())
    with place.client() as client:
        assert client.health().status == "ok"


def test_mcp_over_http(place: Place, starter_gguf: Path) -> None:
    place.up()
    place.pull(starter_gguf)

    async def main() -> None:
        headers = {"Authorization": f"Bearer {place.home.token()}"}
        async with httpx2.AsyncClient(headers=headers, timeout=120) as http:
            transport = streamable_http_client(f"http://127.0.0.1:{place.port}/mcp", http_client=http)
            async with Client(transport) as client:
                ended = await drive(client)
                await try_out(client, check_end(place, ended))
                await look_into(client, ended["job_id"])
                await replace_and_go_back(client, await step_by_step(client))

    asyncio.run(main())


def test_sdk(place: Place, starter_gguf: Path) -> None:
    place.up()
    place.pull(starter_gguf)
    events: list[str] = []
    with place.client() as client:
        result = fw.customize(
            BASE,
            place.workspace / "train.jsonl",
            place.workspace / "evaluator.py",
            heldout=place.workspace / "heldout.jsonl",
            client=client,
            on_event=lambda event: events.append(event.type),
            epochs=1,
            few_shot_count=0,
            inference_parameters={"max_tokens": 64},
        )
        name = check_outcome(place, client, result.pipeline)
        assert result.comparison is not None and result.deployment in (None, name)
        assert isinstance(result.chat(QUESTION, max_tokens=8), str)
        greedy = {"max_tokens": 8, "temperature": 0}
        assert "".join(client.chat(name, QUESTION, stream=True, **greedy)) == client.chat(name, QUESTION, **greedy)
        check_store(place, client)
    assert "state" in events


def check_deletions(place: Place, pipeline: fw.types.Pipeline) -> None:
    """Nothing goes without a yes, nothing that is used goes at all, and what goes is gone."""
    things = {
        "job": pipeline.outcome.evaluations["base"].rsplit("/", 1)[-1],
        "evaluator": "evaluator",
        "dataset": "heldout",
    }
    for noun, identifier in things.items():
        unsure = place.run(noun, "delete", identifier)
        assert unsure.returncode == 5 and f"fw {noun} delete {identifier} --yes" in unsure.stderr
        assert place.run(noun, "delete", identifier, "--yes").returncode == 0
        assert place.run(noun, "delete", identifier, "--yes").returncode == 3
    assert "adapter" in place.run("model", "delete", BASE, "--yes").stderr


def test_cli(place: Place, starter_gguf: Path) -> None:
    place.up()
    place.pull(starter_gguf)
    arguments = ["train.jsonl", "evaluator.py", "--heldout", "heldout.jsonl", "-t", "epochs=1", "--few-shot-count", "0"]
    shown = place.fw("pipeline", "start", BASE, *arguments, "--max-tokens", "64", "--wait")
    with place.client() as client:
        pipeline = client.pipelines.get(shown["name"])
        name = check_outcome(place, client, pipeline)
        check_store(place, client)
    assert shown["outcome"]["comparison"]["verdict"] == pipeline.outcome.comparison.verdict
    sides = [pipeline.outcome.evaluations[label].rsplit("/", 1)[-1] for label in ("base", "tuned")]
    place.fw("compare", *sides, "--plot", "picture.png")
    assert (place.workspace / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "text" in place.fw("chat", name, QUESTION, "--max-tokens", "8")
    check_deletions(place, pipeline)
    assert place.run("status").returncode == 0
    assert place.run("down").returncode == 0
    assert place.run("status").returncode == 9

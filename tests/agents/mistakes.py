"""First attempts that are wrong, as agents make them: the error names the call that recovers, and that one works."""

from __future__ import annotations

import json

from tests.agents import rows
from tests.agents.agent import Agent
from tests.agents.tasks import Solve, prepare
from tests.agents.world import World
from tests.e2e.place import BASE, Place


async def wrong_path(agent: Agent, world: World) -> None:
    """Wrong path"""
    prepare(agent)
    wrong = await agent.call("dataset", path="data/trian.jsonl", fails=True)
    assert wrong["code"] == "not_found" and "Nothing was run." in wrong.text
    assert (await agent.follow("dataset"))["report"]["ok"]


async def wrong_argument(agent: Agent, world: World) -> None:
    """Wrong argument"""
    prepare(agent)
    asked = {"data": "train.jsonl", "heldout": "heldout.jsonl", "evaluator": "evaluator.py", "dry_run": True}
    wrong = await agent.call("customize", **asked, lr=0.002, fails=True)
    assert wrong["code"] == "invalid_argument" and "Nothing was run." in wrong.text
    assert (await agent.follow("customize"))["training"]["learning_rate"] == 0.002


async def wrong_value(agent: Agent, world: World) -> None:
    """Value out of range"""
    prepare(agent)
    wrong = await agent.call("finetune", data="train.jsonl", split="validation", dry_run=True, fails=True)
    assert "'train', 'heldout' or 'all'" in wrong.text
    assert (await agent.follow("finetune", split="all"))["started"] is False


async def wrong_format(agent: Agent, world: World) -> None:
    """Wrong file format"""
    prepare(agent)
    chat = [json.loads(line)["messages"] for line in (agent.workspace / "train.jsonl").read_text().splitlines()]
    pairs = [{"prompt": asked["content"], "completion": answer["content"]} for asked, answer in chat]
    rows.write(agent.workspace / "pairs.jsonl", pairs)
    wrong = await agent.call("customize", data="pairs.jsonl", evaluator="evaluator.py", dry_run=True, fails=True)
    assert wrong["code"] == "dataset_invalid" and "messages" in wrong.text
    rows.write(agent.workspace / "pairs.jsonl", [rows.row(pair["prompt"], pair["completion"]) for pair in pairs])
    assert (await agent.follow("dataset", path="pairs.jsonl"))["report"]["ok"]


async def unknown_model(agent: Agent, world: World) -> None:
    """Unknown model"""
    wrong = await agent.call("generate", model="smollm2-153m", prompts=["Say hi."], max_tokens=4, fails=True)
    assert wrong["code"] == "not_found" and BASE in wrong.text
    assert (await agent.follow("generate"))["answers"]


async def unknown_job(agent: Agent, world: World) -> None:
    """Unknown job"""
    with world.place.client() as client:
        known = next(iter(client.jobs.list())).id
    wrong = await agent.call("job_get", job_id=f"{known}x", fails=True)
    assert wrong["code"] == "not_found"
    assert (await agent.follow("job_get"))["job_id"] == known


async def two_on_one_port(agent: Agent, world: World) -> None:
    """Two servers on one port"""
    other = Place(agent.workspace / "other", world.place.port)
    try:
        async with world.agent("second_server", home=other) as second:
            assert (await second.call("overview"))["workspace"].endswith("second_server")
            agent.trace += second.trace
        with other.home.daemon_file.open() as file:
            assert json.load(file)["url"] != f"http://127.0.0.1:{world.place.port}"
    finally:
        other.workspace.mkdir(parents=True, exist_ok=True)
        other.close()


MISTAKES: tuple[Solve, ...] = (
    wrong_path,
    wrong_argument,
    wrong_value,
    wrong_format,
    unknown_model,
    unknown_job,
    two_on_one_port,
)

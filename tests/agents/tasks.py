"""Tasks with an end that can be checked, each solved by an agent that follows what the results say.

A task's first line is what a person would ask. They run in the order of ``TASKS`` against one daemon; what one leaves
behind (a deployment, an adapter) a later one may use, as in a real project.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

import openai

from tests.agents import rows
from tests.agents.agent import Agent
from tests.agents.world import World
from tests.e2e.place import BASE, EXAMPLE

Solve = Callable[[Agent, World], Awaitable[None]]

TRAINING = {"epochs": 3, "batch_size": 256, "learning_rate": 2e-3}
"""Of the small size: 36 steps in which the six functions are learnt."""
SCORING = {"evaluator": "evaluator.py", "max_tokens": 32}


def prepare(agent: Agent, *, train: int = 48, heldout: int = 16) -> None:
    """Rows and evaluator of the small task, as files."""
    every = rows.calls(train + heldout)
    rows.write(agent.workspace / "train.jsonl", every[:train])
    rows.write(agent.workspace / "heldout.jsonl", every[train:])
    (agent.workspace / "evaluator.py").write_text(rows.EVALUATOR)


async def customize(agent: Agent, world: World) -> None:
    """Make this model emit valid tool calls, and deploy it if it is better."""
    asked: dict[str, Any] = {"data": "train.jsonl", "heldout": "heldout.jsonl", "evaluator": "evaluator.py"}
    if world.small:
        prepare(agent)
        asked |= {**TRAINING, "max_tokens": 32}
    else:
        for name in ("train.jsonl", "heldout.jsonl", "evaluator.py"):
            (agent.workspace / name).write_text((EXAMPLE / name).read_text())
    plan = await agent.call("customize", **asked, dry_run=True)
    assert plan["started"] is False and plan["overlap"]["shared_prompts"] == 0
    await agent.follow("customize", dry_run=None)
    outcome = (await agent.wait())["outcome"]
    comparison = outcome["comparison"]
    assert comparison["verdict"] == "better" and comparison["ci95"][0] > 0 and comparison["n"] >= 16
    question = rows.FORMS[0][0].format("Lisbon") if world.small else "Function: {}\nQuestion: hello"
    answers = (await agent.follow("generate", prompts=[question], max_tokens=32))["answers"]
    if world.small:
        assert json.loads(unfenced(answers[0])) == {"name": "wx_now", "arguments": {"city": "Lisbon"}}
    world.left |= {"deployment": outcome["deployment"], "adapter": outcome["model"]}


async def broken_rows(agent: Agent, world: World) -> None:
    """The data has three broken rows: find them."""
    lines = [json.dumps(row) for row in rows.calls(40)]
    lines[6] = lines[6][:-9]
    lines[18] = lines[18].replace('"assistant"', '"assistent"')
    lines[32] = json.dumps({"messages": [{"role": "user", "content": "And this one?"}]})
    (agent.workspace / "train.jsonl").write_text("\n".join(lines) + "\n")
    found = await agent.call("dataset", path="train.jsonl")
    broken = [problem["line"] for problem in found["report"]["problems"] if problem["severity"] == "error"]
    assert broken == [7, 19, 33]
    kept = [line for number, line in enumerate(lines, 1) if number not in broken]
    (agent.workspace / "train.jsonl").write_text("\n".join(kept) + "\n")
    report = (await agent.follow("dataset"))["report"]
    assert report["ok"] and report["rows"] == 37


async def bad_evaluator(agent: Agent, world: World) -> None:
    """Can this evaluator be trusted? If not, mend it."""
    prepare(agent)
    lenient = (
        "def evaluate(messages, ground_truth=None, **row):\n    return float(messages[-1]['content'] in ground_truth)\n"
    )
    (agent.workspace / "evaluator.py").write_text(lenient)
    found = await agent.call("evaluator_check", evaluator="evaluator.py", data="train.jsonl")
    assert found["mean_score"]["empty_answer"] == 1.0 and "measures nothing" in found["warning"]
    (agent.workspace / "evaluator.py").write_text(rows.EVALUATOR)
    mended = await agent.follow("evaluator_check")
    assert mended["mean_score"] == {"own_answer": 1.0, "another_rows_answer": 0.0, "empty_answer": 0.0}
    assert "warning" not in mended.fields


async def leak(agent: Agent, world: World) -> None:
    """Is what we score on really unseen? If not, repair the files."""
    prepare(agent)
    every = rows.calls(64)
    rows.write(agent.workspace / "train.jsonl", every[:48] + every[50:53])
    files = {"data": "train.jsonl", "heldout": "heldout.jsonl", "evaluator": "evaluator.py"}
    plan = await agent.call("customize", **files, dry_run=True)
    assert plan["overlap"]["shared_prompts"] == 3
    leaked = {pair["other_line"] for pair in plan["overlap"]["line_pairs"]}
    lines = (agent.workspace / "train.jsonl").read_text().splitlines()
    kept = [line for number, line in enumerate(lines, 1) if number not in leaked]
    (agent.workspace / "train.jsonl").write_text("\n".join(kept) + "\n")
    clean = await agent.follow("customize")
    assert clean["overlap"]["shared_prompts"] == 0 and clean["data"]["report"]["rows"] == 48


async def worth_training(agent: Agent, world: World) -> None:
    """Is this task worth training for at all?"""
    weather = [rows.call(rows.FORMS[0], city) for city in rows.CITIES]
    rows.write(agent.workspace / "weather.jsonl", weather)
    (agent.workspace / "evaluator.py").write_text(rows.EVALUATOR)
    await agent.call("evaluate", model=BASE, data="weather.jsonl", **SCORING, split="all")
    plain = await agent.wait()
    await agent.follow("evaluate", few_shot=4)
    prompted = await agent.wait()
    assert plain["score"]["mean"] < 0.3 < 0.6 < prompted["score"]["mean"]
    evidence = await agent.follow("compare", baseline=plain["job_id"])
    assert evidence["verdict"] == "better" and "without any training" in evidence.next


async def failed_job(agent: Agent, world: World) -> None:
    """A job failed: why, and fix it."""
    prepare(agent)
    wrong = rows.EVALUATOR.replace("    except ValueError:\n        return 0.0\n", "    finally:\n        pass\n")
    with world.place.client() as client:
        data = client.datasets.create(agent.workspace / "heldout.jsonl", id="of-failed")
        client.evaluators.create(wrong, id="fragile")
        job = client.evaluations.create(BASE, data.id, "fragile", id="nightly", split="all", max_tokens=8, limit=4)
        client.jobs.wait(job.id, timeout_s=120)
    overview = await agent.call("overview")
    failed = next(job for job in overview["jobs"] if "failed" in str(job["state"]).lower())
    why = await agent.call("job_get", job_id=failed["id"])
    assert why["failure"]["code"] == "evaluator_failed" and "JSONDecodeError" in why["failure"]["message"]
    following = why.next
    mended = await agent.follow("evaluator_check", evaluator="evaluator.py")
    assert mended["mean_score"]["own_answer"] == 1.0
    assert "evaluate(model='smollm2-135m', data='of-failed'" in following
    await agent.follow("evaluate", model=BASE, data="of-failed", evaluator="evaluator.py", split="all", limit=4)
    assert (await agent.wait())["score"]["n"] == 4


async def cancel_and_resume(agent: Agent, world: World) -> None:
    """Stop that training, I need the machine. Now go on with it."""
    prepare(agent)
    started = await agent.call("finetune", data="train.jsonl", split="all", seed=7, **{**TRAINING, "epochs": 1})
    with world.place.client() as client:
        events = client.jobs.events(started["job_id"])
        next(event for event in events if event.type == "metric" and event.data["step"] >= 3)
    refused = await agent.call("job_cancel", job_id=started["job_id"], fails=True)
    assert "Nothing was cancelled" in refused.text
    await agent.follow("job_cancel")
    cancelled = await agent.wait(ends="cancelled")
    await agent.follow("finetune")
    ended = await agent.wait()
    assert ended["job_id"] == cancelled["job_id"]
    with world.place.client() as client:
        steps = [event.data["step"] for event in client.jobs.past_events(ended["job_id"]) if event.type == "metric"]
    assert steps == list(range(1, len(steps) + 1)), "a step was trained twice or left out"
    world.left["second_adapter"] = ended["model"]


async def which_adapter(agent: Agent, world: World) -> None:
    """Which of these two adapters is better, and are you sure?"""
    prepare(agent)
    scored = {"data": "heldout.jsonl", **SCORING, "split": "all"}
    await agent.call("evaluate", model=world.left["second_adapter"], **scored)
    await agent.wait()
    answer = await agent.follow("compare", baseline=world.left["adapter"])
    low, high = answer["ci95"]
    assert answer["n"] == 16 and answer["meaning"]
    assert answer["verdict"] == "inconclusive" or low > 0 or high < 0, "a verdict that the interval does not bear"
    refused = await agent.call("deploy", model=world.left["second_adapter"], fails=answer["verdict"] != "better")
    assert answer["verdict"] == "better" or refused["code"] == "gate_not_met"


async def openai_client(agent: Agent, world: World) -> None:
    """Our program speaks to OpenAI: make it speak to the tuned model."""
    overview = await agent.call("overview")
    deployment = next(item for item in overview["deployments"] if item["id"] == world.left["deployment"])
    await agent.call("docs_search", query="call a deployment with an OpenAI client: base url and key")
    page = await agent.read("docs://inference")
    assert 'base_url="http://127.0.0.1:8642/v1"' in page and "FW_HOME/token" in page
    address = f"http://127.0.0.1:{world.place.port}/v1"
    program = openai.AsyncOpenAI(base_url=address, api_key=world.place.home.token(), max_retries=0)
    asked: Any = [{"role": "user", "content": rows.FORMS[1][0].format("Lisbon")}]
    reply = await program.chat.completions.create(model=deployment["id"], messages=asked, max_tokens=32, temperature=0)
    assert json.loads(reply.choices[0].message.content or "")["name"] == "clk_local"


async def question(agent: Agent, world: World) -> None:
    """What happens to my training if the daemon is killed?"""
    found = await agent.call("docs_search", query="what happens to a job when the daemon is killed")
    assert "the next daemon adopts it" in found.text
    assert found["results"][0]["page"] in found.next


async def model_by_path(agent: Agent, world: World) -> None:
    """Here is a GGUF file: does it run, and does it answer?"""
    os.link(world.starter, agent.workspace / "mine.gguf")
    pulled = await agent.call("model_pull", source="mine.gguf")
    assert pulled["model"] == "mine" and "job_id" in pulled.fields
    waited = await agent.follow("job_wait")
    assert waited["state"] == "completed"
    ready = await agent.call("model_pull", source="mine.gguf")
    assert ready["state"] == "READY"
    answer = await agent.follow("generate", prompts=["What is the capital of France? One word."], max_tokens=8)
    assert "Paris" in answer["answers"][0]


async def long_list(agent: Agent, world: World) -> None:
    """Go through all the answers of that evaluation which are calls."""
    with world.place.client() as client:
        known = (item for item in client.evaluations.list() if item.summary and item.summary.n == len(rows.CITIES))
        scored = max(known, key=lambda item: item.summary.mean if item.summary else 0.0)
    found = await agent.call("job_get", job_id=scored.id, view="samples", grep='"name"', limit=7)
    seen = [sample["line"] for sample in found["samples"]]
    while len(seen) < found["matching"]:
        found = await agent.follow("job_get")
        seen += [sample["line"] for sample in found["samples"]]
    assert len(seen) == len(set(seen)) and all('"name"' in sample["answer"] for sample in found["samples"])


async def lost_reply(agent: Agent, world: World) -> None:
    """The connection broke while a training was being started: start it, once."""
    prepare(agent, train=16)
    asked = {"data": "train.jsonl", "split": "all", "epochs": 1, "seed": 3}
    before = jobs_of(world)
    lost = asyncio.ensure_future(agent.client.call_tool("finetune", asked))
    await asyncio.sleep(0.3)
    lost.cancel()
    await agent.call("finetune", **asked)
    ended = await agent.wait()
    assert jobs_of(world) - before == {ended["job_id"]}


TASKS: tuple[Solve, ...] = (
    broken_rows,
    bad_evaluator,
    leak,
    question,
    customize,
    openai_client,
    worth_training,
    long_list,
    failed_job,
    cancel_and_resume,
    which_adapter,
    lost_reply,
    model_by_path,
)


def jobs_of(world: World) -> set[str]:
    """Ids of all jobs, as the store has them."""
    with world.place.client() as client:
        return {job.id for job in client.jobs.list()}


def unfenced(text: str) -> str:
    """What stands between the fences of untrusted text."""
    found = re.fullmatch(r"<<untrusted (.*) >>", text, re.DOTALL)
    assert found, text
    return found[1]

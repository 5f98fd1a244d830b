"""A text that an agent gives is that text, also where it is JSON or an expression that never ends."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import httpx2
import pytest
from mcp import Client

from fw_mcp.tests.conftest import ERAS, TRANSPORTS, Daemon

WORDS = ("zebra", "null pointer", "lion [1]", "tiger", "wolf", "{} braces", "true story", "owl 123")


def rows() -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"Tell of {word}"}, {"role": "assistant", "content": "yes"}]}
        for word in WORDS
    ]


def ask(daemon: Daemon, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    async def main() -> list[Any]:
        async with Client(daemon.server()) as client:
            return [await client.call_tool(tool, arguments) for tool, arguments in calls]

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("grep", "word"),
    [("null", "null pointer"), ("[1]", "lion [1]"), ("true", "true story"), ("123", "owl 123"), ("{}", "{} braces")],
)
def test_a_pattern_that_is_json_still_picks(grep: str, word: str, daemon: Daemon) -> None:
    kept, shown = ask(
        daemon,
        ("dataset", {"rows": rows(), "id": "words", "save": True}),
        ("dataset", {"id": "words", "grep": grep, "detail": "full"}),
    )
    assert not kept.is_error and not shown.is_error, shown.content[0].text
    sample = shown.structured_content["sample"]
    assert any(word in line for line in sample) and len(sample) < len(WORDS)
    assert all(grep.strip("[]") in line for line in sample)


@pytest.mark.parametrize("text", ['{"role": "classifier"}', "null", "[1]", "true", "12"])
def test_a_text_that_is_json_reaches_the_tool_as_it_is(text: str, daemon: Daemon) -> None:
    asked, named, looked = ask(
        daemon,
        ("generate", {"model": "nope", "prompts": ["hi"], "system": text}),
        ("dataset", {"id": text}),
        ("deploy", {"action": "stop", "name": text, "confirm": "other"}),
    )
    assert asked.structured_content["code"] == "not_found" and "nope" in asked.structured_content["message"]
    assert named.structured_content["code"] in ("not_found", "invalid_argument")
    assert "dataset needs path" not in named.structured_content["message"]
    assert text in looked.structured_content["next"]


def test_lists_that_come_as_json_in_a_string_are_read(daemon: Daemon) -> None:
    (checked,) = ask(daemon, ("dataset", {"rows": '[{"messages": [{"role": "user", "content": "a"}]}]'}))
    assert checked.structured_content["report"]["rows"] == 1


@pytest.mark.parametrize("mode", ERAS)
def test_an_expression_that_never_ends_does_not_hold_the_daemon(mode: str, daemon: Daemon) -> None:
    row = {"messages": [{"role": "user", "content": "a" * 60 + "!"}, {"role": "assistant", "content": "b"}]}
    ask(daemon, ("dataset", {"rows": [row] * 40, "id": "long", "save": True}))
    answered: list[float] = []
    stop = threading.Event()

    def look() -> None:
        with httpx2.Client() as http:
            while not stop.is_set():
                http.get(f"{daemon.url}/v1/health", timeout=60).raise_for_status()
                answered.append(time.monotonic())

    async def main() -> tuple[Any, float, float]:
        async with TRANSPORTS["http"](daemon, mode) as client:
            began = time.monotonic()
            result = await client.call_tool("dataset", {"id": "long", "grep": "(a|aa)+$", "detail": "full"})
            return result, began, time.monotonic()

    others = threading.Thread(target=look)
    others.start()
    try:
        result, began, ended = asyncio.run(main())
    finally:
        stop.set()
        others.join()
    assert result.is_error and result.structured_content["param"] == "grep"
    assert "takes longer than" in result.structured_content["message"]
    assert sum(began < moment < ended for moment in answered) >= 3, "the daemon answered nobody meanwhile"

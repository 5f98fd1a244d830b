"""Asking with stock clients: the answer comes, and the token is in no process list."""

import shutil
from pathlib import Path

import pytest

from fw_sdk.cli import stock
from fw_sdk.tests.scripted_server import Reply, scripted
from fw_sdk.types import FwError

TOKEN = "fw_a-secret-that-must-not-be-seen"
BODY = {"model": "m", "messages": [{"role": "user", "content": 'a "quoted"\nline \\ ü'}], "max_tokens": 5}


def answer(n, seen):
    """What was asked, and whether any process shows the token, as the answer's text."""
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    shown = any(TOKEN.encode() in command for command in commands)
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"
    return Reply(body={"choices": [{"message": {"role": "assistant", "content": f"{shown}"}}]})


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl_sends_the_body_exactly_and_shows_no_token():
    import json

    with scripted(answer) as server:
        assert stock.ask(server.url, TOKEN, BODY) == ("curl", "False")
    assert json.loads(server.seen[0].body) == BODY
    assert server.seen[0].headers["content-type"] == "application/json"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_what_curl_says_is_in_the_error():
    with pytest.raises(FwError, match="curl got no answer"):
        stock.ask("http://127.0.0.1:9", TOKEN, BODY)


def test_the_openai_package_is_asked_where_there_is_no_curl(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("PATH", "")
    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    with scripted(lambda n, seen: Reply(body={**reply, "choices": [choice]})) as server:
        assert stock.ask(server.url, TOKEN, BODY) == ("openai", "hi")

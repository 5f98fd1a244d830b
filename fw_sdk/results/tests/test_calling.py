"""The program that asks a deployment runs as it is written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fw_sdk.results.calling import openai_call, shared_system_message
from fw_sdk.tests.scripted_server import Reply, scripted
from fw_sdk.types import Deployment

SYSTEM = {"role": "system", "content": "Answer 'briefly'."}
ASKED = {"role": "user", "content": "1?"}


@pytest.mark.parametrize("system", [None, SYSTEM["content"]])
def test_the_program_asks_with_the_token_and_the_system_message(
    system: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    token = tmp_path / "token"
    token.write_text("fw_read_secret\n")
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "d", "choices": [choice]}
    with scripted(lambda n, seen: Reply(body=body)) as server:
        made = Deployment(name="accounts/local/deployments/d", base_model="m", url=f"{server.url}/v1")
        program = openai_call(made, str(token), system)
        exec(compile(ast.parse(program), "program", "exec"), {})
    assert capsys.readouterr().out == "hi\n"
    assert server.seen[0].headers["authorization"] == "Bearer fw_read_secret"
    sent = ast.literal_eval(server.seen[0].body.decode())
    assert sent["model"] == "d" and [message["role"] for message in sent["messages"]][:-1] == ["system"] * bool(system)


def test_a_system_message_is_named_only_if_every_row_has_it() -> None:
    one = {"messages": [SYSTEM, ASKED]}
    assert shared_system_message([one, one]) == SYSTEM["content"]
    assert shared_system_message([one, {"messages": [ASKED]}]) is None
    assert shared_system_message([]) is None and shared_system_message([{"messages": []}]) is None

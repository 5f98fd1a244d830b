"""A scripted agent: it knows only what a result says, and follows the ``next`` of the last one."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp import Client

from tests.agents.exchange import PICTURE, Exchange, exchange

WAIT = "job_wait"


class NotSaid(AssertionError):
    """The last result does not name the call that is needed now."""


@dataclass(frozen=True)
class Answer:
    """A result as the agent reads it: the text, and the fields that are in it."""

    text: str
    is_error: bool
    fields: dict[str, Any]

    @property
    def next(self) -> str:
        return str(self.fields["next"])

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    @classmethod
    def of(cls, done: Exchange) -> Answer:
        """Of an error, the fields are its facts and ``next``; of a page or a prompt there are none."""
        if done.method != "call":
            return cls(done.text, done.is_error, {})
        if not done.is_error:
            return cls(done.text, False, json.loads(PICTURE.sub("", done.text)))
        *_, said, facts = done.text.splitlines()
        assert said.startswith("next: "), done.text
        return cls(done.text, True, {**json.loads(facts), "next": said.removeprefix("next: ")})


@dataclass
class Agent:
    """One agent with one task.

    Attributes:
        client: its connection.
        workspace: its folder, in which it may write files.
        trace: what it asked and what came back.
    """

    client: Client
    workspace: Path
    trace: list[Exchange] = field(default_factory=list)
    _last: Answer | None = None
    _arguments: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def call(self, tool: str, /, *, fails: bool = False, **arguments: Any) -> Answer:
        """Call a tool, which must succeed, or fail if ``fails``."""
        self._arguments[tool] = arguments
        answer = await self._ask("call", tool, arguments)
        assert answer.is_error == fails, f"{tool}({arguments}): {answer.text}"
        assert answer.next
        return answer

    async def follow(self, tool: str, /, *, fails: bool = False, **choices: Any) -> Answer:
        """Do what the last result says: call ``tool``, which its ``next`` must name, with the arguments written there.

        Where it says ``tool(...)`` the agent's own last arguments of that tool are meant. ``choices`` fill what is left
        open, and change what the agent decides; None takes an argument away.
        """
        assert self._last is not None
        written = call_in(self._last.next, tool)
        if written is None:
            raise NotSaid(f"{tool} is not in: {self._last.next}")
        same = "..." in written or not written
        arguments = {**(self._arguments.get(tool, {}) if same else {}), **written, **choices}
        arguments.pop("...", None)
        left_open = [key for key, value in arguments.items() if value is ...]
        if left_open:
            raise NotSaid(f"{tool}: {', '.join(left_open)} left open in: {self._last.next}")
        chosen = {key: value for key, value in arguments.items() if value is not None}
        return await self.call(tool, fails=fails, **chosen)

    async def wait(self, *, ends: str = "completed") -> dict[str, Any]:
        """Wait for the job of the last result, as often as ``next`` asks for it; its fields once it ended."""
        answer = await self.follow(WAIT)
        while answer["state"] in ("pending", "running"):
            answer = await self.follow(WAIT)
        assert answer["state"] == ends, answer.text
        return answer.fields

    async def read(self, uri: str) -> str:
        """A page that the last result names."""
        assert self._last is not None and uri in self._last.text, uri
        return (await self._ask("read", uri, {})).text

    async def _ask(self, method: str, name: str, arguments: dict[str, Any]) -> Answer:
        done = await exchange(self.client, method, name, arguments, pictures=self.workspace / ".pictures")
        self.trace.append(done)
        self._last = Answer.of(done)
        return self._last


def call_in(said: str, tool: str) -> dict[str, Any] | None:
    """The arguments of the first ``tool(…)`` in ``said``; ``...`` stands for a value that is left open.

    A positional ``...`` is the key ``"..."``. None when the tool is not named.
    """
    begin = re.search(rf"\b{tool}\(", said)
    if begin is None:
        return None
    said = re.sub(r"=<[^>]*>", "=...", said[begin.start() :])
    for end in (match.end() for match in re.finditer(r"\)", said)):
        try:
            node = ast.parse(said[:end], mode="eval").body
        except SyntaxError:
            continue
        if isinstance(node, ast.Call):
            return {**({"...": ...} if node.args else {}), **{str(key.arg): _value(key.value) for key in node.keywords}}
    raise NotSaid(f"{tool}(…) cannot be read in: {said}")


def _value(node: ast.expr) -> Any:
    """A literal, with true and false as JSON writes them; ``...`` where it is no literal or holds an ellipsis."""
    if isinstance(node, ast.Name) and node.id in ("true", "false"):
        return node.id == "true"
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ...
    return ... if "..." in str(value) or value is Ellipsis or "<" in str(value) else value

"""``fw chat`` and ``fw generate``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from fw_sdk.cli.app import command
from fw_sdk.cli.connect import connect
from fw_sdk.cli.output import Format, emit_text, hint, settings

Model = Annotated[str, typer.Argument(help="A deployment or model.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Stop after N tokens.")]
Temperature = Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the sampling.")]


def register(app: typer.Typer) -> None:
    """Add both commands."""
    command(app, "chat")(chat)
    command(app, "generate")(generate)


def chat(
    model: Model,
    message: Annotated[str | None, typer.Argument(help="What to say; without it a conversation, or stdin.")] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = None,
) -> None:
    """Talk to a model. Example: fw chat smollm2-135m 'What is a fjord?'"""
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    history: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    if message is None and sys.stdin.isatty():
        _converse(model, history, sampling)
        return
    _answer(model, [*history, {"role": "user", "content": message or sys.stdin.read()}], sampling)


def generate(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(help="The text to continue; stdin without it.")] = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = None,
) -> None:
    """Continue a text as it is, without a chat template."""
    text = sys.stdin.read() if prompt is None else prompt
    emit_text(connect().complete(model, text, max_tokens=max_tokens, temperature=temperature, seed=seed))


def _converse(model: str, history: list[dict[str, str]], sampling: dict[str, Any]) -> None:
    hint("An empty line ends the conversation.")
    while text := input("> ").strip():
        history.append({"role": "user", "content": text})
        history.append({"role": "assistant", "content": _answer(model, history, sampling)})


def _answer(model: str, messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
    client = connect()
    if settings.format is Format.JSON:
        answer = client.chat(model, messages, stream=False, **sampling)
        emit_text(answer)
        return answer
    pieces = []
    for piece in client.chat(model, messages, stream=True, **sampling):
        pieces.append(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(pieces)

"""What the daemon's errors advise over HTTP can be said in tool calls and in commands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fw_sdk.results.hints import AGENT, SHELL, Surface, in_words_of

ROOT = Path(__file__).parents[1]


def texts(node: ast.AST) -> Iterator[str]:
    """Strings of a module as they are when they are said, with ``x`` for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for inner in ast.iter_child_nodes(node):
        yield from texts(inner)


def advice() -> list[str]:
    found = []
    for path in sorted((ROOT / "engine").rglob("*.py")):
        if "tests" not in path.parts:
            hints = (text for text in texts(ast.parse(path.read_text())) if "\n" not in text)
            found += [text for text in hints if text.partition(" /v1/")[0].endswith(("GET", "POST", "DELETE"))]
    return [text for text in sorted(set(found)) if not text.startswith(("Body of", "Reply of"))]


def test_there_is_advice_over_http() -> None:
    assert len(advice()) >= 5


@pytest.mark.parametrize("surface", [AGENT, SHELL])
def test_every_advice_over_http_has_words_on_the_other_surfaces(surface: Surface) -> None:
    spoken = {text: in_words_of(surface, text) for text in advice()}
    assert not [text for text, said in spoken.items() if "/v1/" in said]

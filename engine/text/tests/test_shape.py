"""Functions stay short enough to be read at once."""

import ast
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2]
MAX_LINES = 80


@pytest.mark.parametrize("room", ["inference", "text"])
def test_no_function_is_longer_than_a_screen(room):
    long, seen = [], 0
    for file in sorted((ENGINE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                seen += 1
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_LINES:
                    long.append(f"{file.name}:{node.lineno} {node.name} has {lines} lines")
    assert not long
    assert seen > 20

"""The pages say what the code does: codes, commands, links, tools, code blocks."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fw_sdk as fw
from fw_sdk.types import CODES
from tests.tokens import count_tokens

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "AGENTS.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def blocks(language: str) -> list[tuple[Path, str]]:
    found = [(page, match) for page in PAGES for match in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [(page, code) for page, (kind, code) in found if kind == language]


def test_the_table_of_errors_is_the_code_s() -> None:
    lines = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    shown = {row[0].strip("`"): row[1:5] for row in rows}
    wanted = {
        code: [str(entry.http), str(entry.exit_code), "yes" if entry.retryable else "no", entry.meaning]
        for code, entry in CODES.items()
    }
    assert shown == wanted
    assert all(cell for row in rows for cell in row)


def test_the_page_of_datasets_names_every_problem_that_the_check_finds() -> None:
    source = (ROOT / "engine" / "control" / "inventory" / "dataset_rows.py").read_text(encoding="utf-8")
    found = set(re.findall(r'(?:RowError\(\s*|problem\(\s*[\w.]+, |return )"([a-z0-9_]+)"', source))
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    table = page.partition("## What the check reports")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert len(found) > 15 and found == {code for row in rows for code in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_fits_an_agent_s_budget(page: Path) -> None:
    assert count_tokens(page.read_text(encoding="utf-8")) <= 2_500


def test_python_blocks_are_python_of_this_package() -> None:
    for page, code in blocks("python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fw":
                assert hasattr(fw, node.attr), f"{page.name}: fw.{node.attr}"
    assert len(blocks("python")) >= 8


def test_json_blocks_are_json() -> None:
    for page, code in blocks("json"):
        assert json.loads(code), page.name


def commands() -> set[tuple[str, ...]]:
    """Every ``fw …`` of a shell block, as its words before the first option, argument or quote."""
    found = set()
    for _, code in blocks("bash"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:
                words.pop(0)
            if words[:1] == ["fw"]:
                found.add(tuple(words[1:]))
    return found


def test_commands_of_the_pages_exist_with_their_options() -> None:
    import typer

    from fw_sdk.cli.tree import build

    root = typer.main.get_command(build())
    assert len(commands()) >= 15
    for words in commands():
        node, rest = root, list(words)
        while rest and rest[0] in getattr(node, "commands", {}):
            node = node.commands[rest.pop(0)]
        assert not hasattr(node, "commands"), f"fw {' '.join(words)}"
        options = {name for parameter in node.params for name in parameter.opts + parameter.secondary_opts}
        for word in rest:
            assert not word.startswith("-") or word.split("=")[0] in options, f"fw {' '.join(words)}: {word}"


def test_every_command_stands_in_the_page_of_the_command_line() -> None:
    import typer

    from fw_sdk.cli.tree import build

    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    for name, node in typer.main.get_command(build()).commands.items():
        verbs = list(getattr(node, "commands", {}))
        start = rf"`fw {name} {verbs[0]}\b" if verbs else rf"`(fw )?{name}\b"
        row = next((row for row in rows if re.search(start, row)), "")
        assert row, name
        for verb in verbs:
            assert re.search(rf"[` ]{verb}\b", row), f"{name} {verb}"


def test_the_page_of_the_mcp_server_lists_its_tools() -> None:
    text = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    table = text.partition("## Tools")[2].partition("##")[0]
    names = {file.stem for file in (ROOT / "fw_mcp" / "tools").glob("*.py")} - {"__init__", "arguments"}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == names


def test_rooms_of_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^\| `((?:engine|fw_|kernels|docs)[\w/]*)`", text, re.MULTILINE)
    assert len(rooms) >= 14
    assert all((ROOT / room).is_dir() for room in rooms)


def test_the_licence_is_the_declared_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0" and "Apache License" in (ROOT / "LICENSE").read_text()


def test_pages_ship_in_the_package() -> None:
    code = "from importlib import resources as r; print(sum(f.name.endswith('.md') for f in r.files('docs').iterdir()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert int(done.stdout) == len(list((ROOT / "docs").glob("*.md")))

"""No path that an agent can write leaves the workspace or reaches what fw keeps for itself."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp.types import PromptReference

from fw_mcp.app import build_server
from fw_mcp.tests.conftest import Daemon
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.types import FwError
from fw_sdk.types.home import Home

PARTS = st.sampled_from(["..", ".", "a", "b.jsonl", "link", "", "/", "~", "etc", "passwd", "\x00", "n" * 300, "\ud83d"])


@given(st.lists(PARTS, max_size=7).map("/".join) | st.text(max_size=30))
def test_what_is_opened_is_inside(path: str) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "root"
        (root / "a").mkdir(parents=True)
        (root / "a" / "b.jsonl").write_text("x")
        (root / "link").symlink_to("/etc")
        try:
            found = Workspace(root).file(path, "path")
        except FwError as error:
            assert error.code in ("permission_denied", "not_found", "invalid_argument") and error.hint
            assert error.details.get("didYouMean") != path
        else:
            assert found.is_relative_to(root) and found.read_text() == "x"


def test_a_path_inside_may_be_written_in_any_way(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jsonl").write_text("x")
    for path in ("a/b.jsonl", "./a/../a/b.jsonl", str(tmp_path / "a" / "b.jsonl")):
        assert Workspace(tmp_path).file(path, "path") == tmp_path / "a" / "b.jsonl"


def test_without_a_workspace_every_path_is_refused_with_a_way_out() -> None:
    with pytest.raises(FwError) as caught:
        Workspace.for_http({}).file("train.jsonl", "path")
    assert caught.value.code == "permission_denied" and "FW_WORKSPACE" in caught.value.hint


def test_where_the_workspace_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Workspace.for_stdio({}).root == tmp_path
    assert Workspace.for_stdio({"CLAUDE_PROJECT_DIR": "/etc"}).root == Path("/etc")
    assert Workspace.for_http({"FW_WORKSPACE": str(tmp_path)}).root == tmp_path


def test_a_named_folder_is_filled_in_as_a_shell_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "me" / "proj").mkdir(parents=True)
    (tmp_path / "${odd}").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Workspace.for_stdio({"FW_WORKSPACE": "~/proj"}).root == tmp_path / "me" / "proj"
    written = {"FW_WORKSPACE": "${WHERE}/proj", "WHERE": str(tmp_path / "me")}
    assert Workspace.for_stdio(written).root == tmp_path / "me" / "proj"
    assert Workspace.for_stdio({"FW_WORKSPACE": str(tmp_path / "${odd}")}).root == tmp_path / "${odd}"


@pytest.mark.parametrize("variable", ["FW_WORKSPACE", "CLAUDE_PROJECT_DIR"])
@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("${workspaceFolder}", "placeholder"),
        ("{tmp}/gone", "does not exist"),
        ("{tmp}/file", "is a file"),
        ("{tmp}/file/x", "does not exist"),
        ("~nobody-of-that-name/x", ""),
        ("{tmp}/\0", ""),
        ("{tmp}/" + "n" * 300, ""),
        ("/", "the whole machine"),
        ("{tmp}/me", "home folder"),
        ("{tmp}", "home folder"),
        ("{tmp}/me/.fw", "fw's own home"),
        ("{tmp}/me/.fw/datasets", "fw's own home"),
        ("{tmp}/link-to-home", "fw's own home"),
    ],
)
def test_a_named_folder_that_cannot_be_the_workspace_is_an_error_at_the_start(
    variable: str, folder: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "me" / ".fw").prepare()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link-to-home").symlink_to(home.root)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("FW_HOME", str(home.root))
    named = {variable: folder.replace("{tmp}", str(tmp_path))}
    with pytest.raises(FwError) as caught:
        Workspace.for_stdio(named)
    assert caught.value.code == "invalid_argument" and caught.value.param == variable
    assert says in caught.value.message and variable in caught.value.message and caught.value.hint
    over_http = Workspace.for_http({"FW_WORKSPACE": named[variable]})
    with pytest.raises(FwError) as refused:
        over_http.file("train.jsonl", "path")
    assert refused.value.code == "permission_denied" and says in refused.value.message


@pytest.mark.parametrize("folder", ["/", "me"])
def test_a_client_that_starts_it_anywhere_gets_a_server_without_files(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "me").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir("/" if folder == "/" else tmp_path / folder)
    workspace = Workspace.for_stdio({})
    assert workspace.root is None and workspace.data_files() == []
    with pytest.raises(FwError, match="it was started in"):
        workspace.file("etc/passwd", "path")


def test_the_command_ends_with_the_error_and_no_traceback(tmp_path: Path, daemon: Daemon) -> None:
    environment = {**daemon.environment, "FW_WORKSPACE": "${workspaceFolder}"}
    for command in (["-m", "fw_sdk.cli", "mcp"], ["-m", "fw_mcp.stdio"]):
        ended = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=60, input=""
        )
        assert ended.returncode == 2 and ended.stdout == "", ended
        assert "${workspaceFolder}" in ended.stderr and "Traceback" not in ended.stderr


@pytest.fixture
def held(tmp_path: Path) -> tuple[Workspace, Home]:
    """A workspace with FW_HOME in it, and everything that leads there."""
    home = Home(tmp_path / "project" / "home").prepare()
    home.token(), home.reading_token()
    home.database.write_bytes(b"SQLite")
    (home.datasets / "secret.jsonl").write_text("{}\n")
    root = tmp_path / "project"
    (root / "train.jsonl").write_text("{}\n")
    (root / "link").symlink_to(home.root)
    (root / "token.jsonl").symlink_to(home.token_file)
    os.link(home.token_file, root / "hard.jsonl")
    (root / "model").mkdir()
    (root / "model" / "config.json").symlink_to(home.token_file)
    (root / "hard-model").mkdir()
    os.link(home.token_file, root / "hard-model" / "config.json")
    (root / "deep-model" / "1_Pooling").mkdir(parents=True)
    (root / "deep-model" / "1_Pooling" / "config.json").symlink_to(home.token_file)
    (root / "outside").mkdir()
    (root / "outside" / "config.json").symlink_to("/etc/passwd")
    (root / ".hidden.jsonl").write_text("{}\n")
    return Workspace(root, home=home.root), home


INTO_HOME = (
    "home/token",
    "home/token.read",
    "home/fw.db",
    "home/datasets/secret.jsonl",
    "home/nothing",
    "home/tokne",
    "home",
    "./home/../home/token",
    "link/token",
    "token.jsonl",
    "hard.jsonl",
    "model",
    "hard-model",
    "deep-model",
    "outside",
)


@pytest.mark.parametrize("path", INTO_HOME)
@pytest.mark.parametrize("absolute", [False, True])
def test_fw_home_is_no_part_of_the_workspace(path: str, absolute: bool, held: tuple[Workspace, Home]) -> None:
    workspace, _ = held
    assert workspace.root is not None
    written = str(workspace.root / path) if absolute else path
    with pytest.raises(FwError) as caught:
        workspace.existing(written, "path")
    assert caught.value.code == "permission_denied" and not caught.value.details
    assert not workspace.has(written)


def test_another_home_is_none_either(held: tuple[Workspace, Home], tmp_path: Path) -> None:
    workspace, _ = held
    elsewhere = Workspace(workspace.root, home=tmp_path / "elsewhere")
    with pytest.raises(FwError, match="fw's own home"):
        elsewhere.file("home/token", "path")


def test_no_list_or_suggestion_names_what_cannot_be_opened(held: tuple[Workspace, Home]) -> None:
    workspace, _ = held
    assert workspace.data_files() == ["train.jsonl"]
    for path in ("secret.jsonl", "tokn.jsonl", "token", "hidden.jsonl", "x.jsonl"):
        with pytest.raises(FwError) as caught:
            workspace.file(path, "path")
        said = json.dumps(caught.value.to_dict()).replace(f"'{path}'", "")
        assert not any(name in said for name in ("secret", "token", "hard.jsonl", ".hidden")), said


def call(workspace: Workspace, tool: str, arguments: dict[str, Any], daemon: Daemon) -> Any:
    async def connect() -> AsyncClient:
        return AsyncClient(daemon.url, daemon.home.token(), max_retries=0)

    async def main() -> Any:
        async with Client(build_server(connect, workspace)) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("tool", "argument", "others"),
    [
        ("dataset", "path", {"detail": "full"}),
        ("dataset", "overlap_with", {"path": "train.jsonl"}),
        ("customize", "data", {"evaluator": "def evaluate(messages): return 1.0"}),
        ("customize", "evaluator", {"data": "train.jsonl"}),
        ("customize", "base_model", {"data": "train.jsonl", "evaluator": "def evaluate(messages): return 1.0"}),
        ("customize", "heldout", {"data": "train.jsonl", "evaluator": "def evaluate(messages): return 1.0"}),
        ("finetune", "data", {}),
        ("finetune", "base_model", {"data": "train.jsonl"}),
        ("evaluate", "data", {"model": "m", "evaluator": "def evaluate(messages): return 1.0"}),
        ("evaluate", "evaluator", {"model": "m", "data": "train.jsonl"}),
        ("evaluator_check", "data", {"evaluator": "def evaluate(messages): return 1.0"}),
        ("evaluator_check", "evaluator", {"data": "train.jsonl"}),
        ("model_pull", "source", {}),
        ("model_pull", "source", {"dry_run": True}),
    ],
)
def test_no_argument_of_any_tool_shows_a_secret(
    tool: str, argument: str, others: dict[str, Any], held: tuple[Workspace, Home], daemon: Daemon
) -> None:
    workspace, home = held
    assert workspace.root is not None
    good = [
        {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "b"}]} for n in range(99)
    ]
    (workspace.root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good))
    for path in ("home/token", "./link/token", "./token.jsonl", "./hard.jsonl", "./model"):
        result = call(workspace, tool, {argument: path, **others}, daemon)
        said = result.model_dump_json()
        assert result.is_error and home.token() not in said and home.reading_token() not in said
        if not (path == "./model" and argument not in ("base_model", "source")):
            assert result.structured_content["code"] == "permission_denied", said


def test_completions_list_the_workspace_alone(held: tuple[Workspace, Home], daemon: Daemon) -> None:
    workspace, _ = held

    async def connect() -> AsyncClient:
        return AsyncClient(daemon.url, daemon.home.token(), max_retries=0)

    async def main() -> list[str]:
        async with Client(build_server(connect, workspace)) as client:
            reference = PromptReference(type="ref/prompt", name="customize")
            return list((await client.complete(reference, {"name": "data", "value": ""})).completion.values)

    assert asyncio.run(main()) == ["train.jsonl"]


def test_what_is_no_file_is_said_and_the_way_leads_on(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "data sub").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("data sub/one.jsonl", "two/a.jsonl", "two/b.jsonl"):
        (tmp_path / name).write_text("{}\n")
    os.mkfifo(tmp_path / "pipe.jsonl")
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "x.jsonl").write_text("{}\n")

    def refused(path: str) -> FwError:
        with pytest.raises(FwError) as caught:
            workspace.file(path, "path")
        return caught.value

    assert refused("data sub").message == "'data sub' is a folder, not a file. Did you mean 'data sub/one.jsonl'?"
    assert "two/a.jsonl, two/b.jsonl" in refused("two").hint and not refused("two").details
    for path in ("", "."):
        assert "is a folder" in refused(path).message and not refused(path).details
    assert "no regular file" in refused("pipe.jsonl").message
    assert refused("pipe.jsonl").details.get("didYouMean") != "pipe.jsonl"
    assert refused("n" * 300).code == "not_found"
    if os.geteuid():
        closed.chmod(0)
        assert refused("closed/x.jsonl").code == "permission_denied"
        closed.chmod(0o700)


def test_next_never_makes_the_same_call_again_or_means_something_else(daemon: Daemon) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "b"}]} for n in range(9)
    ]
    workspace = Workspace(daemon.workspace)
    (daemon.workspace / "data sub").mkdir()
    kept = call(workspace, "dataset", {"rows": rows, "id": "nums", "save": True}, daemon)
    assert kept.structured_content["id"] == "nums"
    source = "def evaluate(messages): return 1.0"
    for tool, arguments in (
        ("dataset", {"path": "data sub"}),
        ("dataset", {"path": "."}),
        ("dataset", {"path": ""}),
        ("evaluate", {"data": "nums.tsv", "model": "m", "evaluator": source}),
        ("evaluator_check", {"data": "nums.tsv", "evaluator": source}),
        ("customize", {"data": "nums.tsv", "evaluator": source}),
    ):
        result = call(workspace, tool, arguments, daemon)
        following = result.structured_content["next"]
        assert result.is_error, (tool, arguments)
        assert f"'{arguments.get('path')}'" not in following and "data='nums'" not in following, following
    (daemon.workspace / "bare-rows").write_text((json.dumps(rows[0]) + "\n") * 3)
    checked = call(workspace, "evaluator_check", {"data": "bare-rows", "evaluator": source}, daemon)
    assert not checked.is_error and checked.structured_content["rows"] == 3

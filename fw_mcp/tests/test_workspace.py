"""No path that an agent can write leaves the workspace."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_mcp.workspace import Workspace
from fw_sdk.types import FwError

PARTS = st.sampled_from(["..", ".", "a", "b.jsonl", "link", "", "/", "~", "etc", "passwd", "\x00"])


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

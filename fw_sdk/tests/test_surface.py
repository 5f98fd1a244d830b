"""The two clients offer the same, and importing the package costs little."""

import inspect
import subprocess
import sys

import pytest

import fw_sdk as fw
from fw_sdk import groups
from fw_sdk.methods import Group, Method

GROUPS = [
    name
    for name, value in vars(groups).items()
    if inspect.isclass(value) and issubclass(value, Group) and value is not Group and not name.startswith("Async")
]


def operations(group):
    return {name: value.definition for name, value in vars(group).items() if isinstance(value, Method)}


def test_every_group_has_the_same_definitions_in_both_clients():
    assert len(GROUPS) >= 10
    for name in GROUPS:
        assert operations(getattr(groups, name)) == operations(getattr(groups, f"Async{name}")), name
        assert operations(getattr(groups, name)), name


def test_both_clients_hold_the_same_groups_and_methods():
    sync, other = fw.Client("http://localhost:1", "k"), fw.AsyncClient("http://localhost:1", "k")
    held = {name: type(value).__name__ for name, value in vars(sync).items() if isinstance(value, Group)}
    assert {name: f"Async{kind}" for name, kind in held.items()} == {
        name: type(value).__name__ for name, value in vars(other).items() if isinstance(value, Group)
    }
    assert set(held.values()) == set(GROUPS)
    for name in ("chat", "answer", "complete", "health", "overview", "shutdown"):
        one, two = getattr(fw.Client, name), getattr(fw.AsyncClient, name)
        assert inspect.signature(one).parameters == inspect.signature(two).parameters, name


@pytest.mark.parametrize("name", GROUPS)
def test_every_operation_is_documented_and_keeps_its_signature(name):
    group = getattr(groups, name)(None)
    for operation, definition in operations(type(group)).items():
        bound = getattr(group, operation)
        assert bound.__doc__ and inspect.signature(bound) == inspect.signature(definition)


def test_every_exported_name_is_there():
    for name in dir(fw):
        assert getattr(fw, name) is not None
    assert callable(fw.customize)
    with pytest.raises(AttributeError, match="Clint"):
        fw.Clint  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import fw_sdk, sys; print([m for m in ('pydantic', 'httpx', 'typer', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

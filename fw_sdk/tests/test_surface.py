"""The two clients offer the same, and importing the package costs little."""

import inspect
import pydoc
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import get_args, get_origin, get_type_hints

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


@pytest.mark.parametrize("prefix", ["", "Async"])
@pytest.mark.parametrize("name", GROUPS)
def test_every_operation_is_documented_and_keeps_its_parameters(name, prefix):
    group = getattr(groups, f"{prefix}{name}")(None)
    for operation, definition in operations(type(group)).items():
        bound, unbound = getattr(group, operation), getattr(type(group), operation)
        parameters = list(inspect.signature(definition).parameters.values())
        assert bound.__doc__ and list(inspect.signature(bound).parameters.values()) == parameters
        assert list(inspect.signature(unbound).parameters.values())[1:] == parameters
        assert bound.__name__ == operation and bound.__qualname__ == f"{prefix}{name}.{operation}"


@pytest.mark.parametrize(
    ("method", "gives"),
    [
        ("datasets.create", fw.Dataset),
        ("evaluators.check", list[fw.RowScore]),
        ("deployments.wait", fw.Deployment),
        ("pipelines.wait", fw.Pipeline),
        ("jobs.wait", fw.Job),
        ("evaluations.delete", None),
        ("jobs.list", Iterator[fw.Job]),
        ("jobs.events", Iterator[fw.JobEvent]),
    ],
)
def test_signatures_and_help_say_what_a_method_gives(method, gives):
    group, _, name = method.partition(".")
    one = getattr(getattr(fw.Client("http://localhost:1", "k"), group), name)
    other = getattr(getattr(fw.AsyncClient("http://localhost:1", "k"), group), name)
    listed = get_origin(gives) is Iterator
    promised = AsyncIterator[get_args(gives)[0]] if listed else gives
    assert inspect.signature(one).return_annotation == gives and get_type_hints(one)["return"] in (gives, type(gives))
    assert inspect.signature(other).return_annotation == promised
    assert get_type_hints(other)["return"] in (promised, type(promised))
    assert not inspect.iscoroutinefunction(one) and inspect.iscoroutinefunction(other) is not listed
    ends = f"-> {inspect.formatannotation(gives)}\n"
    assert ends in pydoc.render_doc(one, renderer=pydoc.plaintext)


def test_no_page_of_help_shows_how_methods_are_made():
    for name in GROUPS:
        for group in (getattr(groups, name), getattr(groups, f"Async{name}")):
            page = pydoc.render_doc(group, renderer=pydoc.plaintext)
            assert page.count(") -> ") >= len(operations(group)) and "(self" in page
            for inner in ("Steps", "Generator", "Call[", "Listing", "EventStream", "Method["):
                assert inner not in page, (group, inner)


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


@pytest.mark.parametrize("group", ["finetunes", "evaluations", "pipelines"])
def test_a_plan_takes_what_its_start_takes_with_the_same_defaults(group):
    import importlib

    operations = importlib.import_module(f"fw_sdk.operations.{group}")
    start, plan = (inspect.signature(getattr(operations, name)).parameters for name in ("create", "plan"))
    for name, parameter in plan.items():
        assert parameter.default == start[name].default, name

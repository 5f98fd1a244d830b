"""Tool schemas: the type names of BFCL's functions, and every one of them compiled and written."""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.text import GrammarCompiler, GrammarSpec, Tokenizer
from engine.text.schemas import TYPE_OF, parameters_schema
from engine.text.tests.walks import walk
from fw_sdk.types import FwError

BFCL = "bfcl-eval==2026.3.23"
BFCL_SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
FUNCTIONS = 8726

SCALARS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["string", "String", "char", "integer", "long", "float", "double", "boolean", "Boolean", "any"]
        )
    },
    optional={"description": st.just("What it is."), "default": st.none() | st.just({}), "optional": st.just(True)},
) | st.fixed_dictionaries({"type": st.just("string"), "enum": st.lists(st.text(max_size=5), min_size=1, max_size=3)})


def _objects(inner):
    properties = st.dictionaries(st.sampled_from(["a", "b_c", "größe", "d-e", 'f"g']), inner, max_size=4)
    return st.tuples(properties, st.sampled_from(["dict", "object", "HashMap"])).flatmap(
        lambda parts: st.lists(st.sampled_from(sorted(parts[0]) or ["a"]), unique=True, max_size=3).map(
            lambda required: {"type": parts[1], "properties": parts[0], "required": required if parts[0] else []}
        )
    )


NODES = st.recursive(
    SCALARS,
    lambda inner: (
        _objects(inner)
        | st.fixed_dictionaries({"type": st.sampled_from(["array", "tuple", "ArrayList", "Array"]), "items": inner})
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir):
    return Tokenizer.load(tiny_llama_dir)


@pytest.fixture(scope="module")
def compiler(tokenizer):
    return GrammarCompiler(tokenizer, tokenizer.vocab_size)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parameters=_objects(NODES), seed=st.integers(0, 1000))
def test_what_a_schema_of_this_kind_allows_validates(compiler, tokenizer, parameters, seed):
    schema = parameters_schema(parameters)
    text = walk(compiler, GrammarSpec("json_schema", json.dumps(schema)), tokenizer, seed, max_tokens=300)
    if text is not None:
        jsonschema.validate(json.loads(text), schema)
        jsonschema.validate(json.loads(text), parameters_schema(parameters, closed=False))


def test_names_and_places():
    assert parameters_schema(None) == {"type": "object", "properties": {}, "additionalProperties": False}
    nested = {
        "type": "dict",
        "properties": {
            "type": {"type": "any", "description": "a property may be called type"},
            "items": {"type": "tuple", "items": {"type": "float", "default": 1.5}},
            "left": {"type": ["String", "None"]},
            "right": {"anyOf": [{"type": "long"}, {"type": "HashMap"}]},
        },
        "required": ["items"],
    }
    assert parameters_schema(nested, closed=False) == {
        "type": "object",
        "properties": {
            "type": True,
            "items": {"type": "array", "items": {"type": "number"}},
            "left": {"type": ["string", "null"]},
            "right": {"anyOf": [{"type": "integer"}, {"type": "object"}]},
        },
        "required": ["items"],
    }
    assert parameters_schema(nested)["additionalProperties"] is False
    assert set(TYPE_OF.values()) == {"object", "array", "number", "integer", "string", "boolean", "null"}


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"type": "string"}, "parameters"),
        ({"type": "object", "properties": {"a": {"type": "date"}}}, "parameters.properties.a.type"),
        ({"type": "object", "properties": {"a": 3}}, "parameters.properties.a"),
        ({"type": "array", "items": {"type": "x"}}, "parameters.items.type"),
    ],
)
def test_what_is_not_understood_is_named_by_its_place(parameters, place):
    with pytest.raises(FwError) as caught:
        parameters_schema(parameters)
    assert (caught.value.code, caught.value.param) == ("invalid_argument", place)


def bfcl_functions():
    """Every function of every question in the package; its descriptions of multi-turn tools are not questions."""
    given = os.environ.get("FW_TEST_BFCL")
    folder = Path(given).parent if given else Path.home() / ".cache" / "fw-tests"
    folder.mkdir(parents=True, exist_ok=True)
    found = Path(given) if given else next(folder.glob("bfcl_eval-*.whl"), None)
    if found is None:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "--dest", str(folder), BFCL]
        subprocess.run(command, check=True)
        found = next(folder.glob("bfcl_eval-*.whl"))
    assert hashlib.sha256(found.read_bytes()).hexdigest() == BFCL_SHA256
    with zipfile.ZipFile(found) as wheel:
        for name in sorted(wheel.namelist()):
            if not (name.startswith("bfcl_eval/data/BFCL_v4_") and name.endswith(".json")):
                continue
            for line in wheel.read(name).decode().splitlines():
                if not line.startswith('{"id"'):
                    continue
                functions = json.loads(line).get("function", [])
                yield from functions if isinstance(functions, list) else [functions]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_all_functions_of_bfcl(compiler, tokenizer):
    """At least 99 % compile, the rest is refused by name, and what the grammars allow validates."""
    functions = list(bfcl_functions())
    assert len(functions) == FUNCTIONS
    schemas, refused, times, unfinished, validated = {}, [], [], 0, 0
    for function in functions:
        try:
            schema = parameters_schema(function["parameters"])
            source = json.dumps(schema)
            if source not in schemas:
                begun = time.perf_counter()
                compiler.compile(GrammarSpec("json_schema", source))
                times.append(time.perf_counter() - begun)
                schemas[source] = schema
        except FwError as error:
            assert error.code == "invalid_argument"
            refused.append((function["name"], error.message))
    for seed, (source, schema) in enumerate(schemas.items()):
        text = walk(compiler, GrammarSpec("json_schema", source), tokenizer, seed)
        if text is None:
            unfinished += 1
            continue
        jsonschema.validate(json.loads(text), schema)
        validated += 1
    milliseconds = sorted(1000 * seconds for seconds in times)
    print(
        f"\n{len(functions)} functions, {len(schemas)} different schemas, {len(refused)} refused; compile p50"
        f" {statistics.median(milliseconds):.2f} p90 {milliseconds[int(0.9 * len(milliseconds))]:.2f}"
        f" max {milliseconds[-1]:.2f} ms; {validated} texts validate, {unfinished} were cut off"
    )
    for name, message in refused:
        print(name, message)
    assert len(refused) <= 0.01 * FUNCTIONS
    assert all("property '" in message or "type" in message for _, message in refused)
    assert validated > 0.95 * len(schemas)

"""Make train.jsonl and heldout.jsonl from the BFCL `simple_python` problems in a `bfcl-eval` wheel.

    python build.py path/to/bfcl_eval-2026.3.23-py3-none-any.whl

Standard library only, and deterministic: the same wheel gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

SOURCE = "bfcl-eval 2026.3.23, simple_python"
QUESTIONS = "bfcl_eval/data/BFCL_v4_simple_python.json"
ANSWERS = "bfcl_eval/data/possible_answer/BFCL_v4_simple_python.json"
TYPES = {"dict": "object", "float": "number", "tuple": "array"}
HELDOUT_ROWS = 100
SPLIT_SEED = 0
NEAR = 0.75

SYSTEM = (
    'Answer with one JSON object that calls the function, nothing else: {"name":...,"arguments":{...}}. '
    "Leave out optional parameters that the question does not set."
)

Json = dict[str, Any]


def compact(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_schema(schema: Json) -> Json:
    """BFCL's Python-flavoured type names as JSON Schema's; nothing else is changed or left out."""
    mapped: Json = {}
    for key, value in schema.items():
        if key == "type":
            if value != "any":
                mapped["type"] = TYPES.get(value, value)
        elif key == "properties":
            mapped[key] = {name: json_schema(inner) for name, inner in value.items()}
        elif key == "items":
            mapped[key] = json_schema(value)
        else:
            mapped[key] = value
    return mapped


def as_listed(alternative: Any, schema: Json) -> Any:
    """One listed alternative, with numbers of `float` parameters written as floats, so that types can be compared."""
    kind = schema.get("type")
    if kind == "float" and type(alternative) is int:
        return float(alternative)
    if kind in ("array", "tuple") and isinstance(alternative, list):
        return [as_listed(item, schema.get("items", {})) for item in alternative]
    if kind == "dict" and isinstance(alternative, dict):
        inner = schema.get("properties", {})
        return {key: [as_listed(item, inner.get(key, {})) for item in listed] for key, listed in alternative.items()}
    return alternative


def first_choice(alternative: Any) -> Any:
    """An alternative as an answer: inside an object each key lists alternatives of its own, so take the first."""
    if isinstance(alternative, list):
        return [first_choice(item) for item in alternative]
    if isinstance(alternative, dict):
        return {key: first_choice(listed[0]) for key, listed in alternative.items() if "" not in listed}
    return alternative


def make_row(question: Json, answer: Json) -> Json:
    """One row: the prompt, the first listed answer in its shortest form, and all listed alternatives."""
    function = question["function"][0]
    parameters = function["parameters"]
    ((name, listed),) = answer["ground_truth"][0].items()
    alternatives, target = {}, {}
    for parameter, values in listed.items():
        values = [as_listed(value, parameters["properties"][parameter]) for value in values]
        if parameter in parameters["required"]:
            values = [value for value in values if value != ""]
        alternatives[parameter] = values
        if "" not in values:
            target[parameter] = first_choice(listed[parameter][0] if listed[parameter][0] != "" else values[0])
    prompt = f"Function: {compact({**function, 'parameters': json_schema(parameters)})}\n"
    prompt += f"Question: {question['question'][0][0]['content'].strip()}"
    return {
        "id": question["id"],
        "source": SOURCE,
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": compact({"name": name, "arguments": target})},
        ],
        "ground_truth": {"name": name, "arguments": alternatives},
    }


def families(problems: list[Json]) -> list[list[int]]:
    """Problems that must stay on one side: same function name, or nearly the same words in the question."""
    words = [set(re.findall(r"[a-z]+", problem["question"][0][0]["content"].lower())) for problem in problems]
    names = [re.sub(r"[^a-z]", "", problem["function"][0]["name"].lower()) for problem in problems]
    parent = list(range(len(problems)))

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    for a in range(len(problems)):
        for b in range(a):
            if names[a] == names[b] or len(words[a] & words[b]) >= NEAR * len(words[a] | words[b]):
                parent[root(a)] = root(b)
    groups: dict[int, list[int]] = {}
    for node in range(len(problems)):
        groups.setdefault(root(node), []).append(node)
    return list(groups.values())


def heldout_indices(problems: list[Json]) -> set[int]:
    """Whole families in the order of a seeded hash, as long as they fit, until `HELDOUT_ROWS` are held out."""

    def order(group: list[int]) -> str:
        return hashlib.sha256(f"{SPLIT_SEED}:{problems[group[0]]['id']}".encode()).hexdigest()

    chosen: set[int] = set()
    for group in sorted(families(problems), key=order):
        if len(chosen) + len(group) <= HELDOUT_ROWS:
            chosen.update(group)
    return chosen


def main(wheel: Path) -> None:
    """Write both files beside this one."""
    with zipfile.ZipFile(wheel) as archive:
        problems = [json.loads(line) for line in archive.read(QUESTIONS).decode().splitlines()]
        answers = {item["id"]: item for item in map(json.loads, archive.read(ANSWERS).decode().splitlines())}
    heldout = heldout_indices(problems)
    for name, wanted in (("train.jsonl", False), ("heldout.jsonl", True)):
        rows = [
            make_row(problem, answers[problem["id"]])
            for index, problem in enumerate(problems)
            if (index in heldout) == wanted
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        Path(__file__).with_name(name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

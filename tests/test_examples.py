"""What ``fw example`` ships: rows that answer themselves, sides that are apart, files that their script makes again."""

import importlib.util
import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import fw_sdk as fw
from engine.control.inventory.dataset_rows import SplitRule, validate_file
from engine.evals.evaluators import check_source
from engine.evals.overlap import overlap
from engine.jobs.rows import Row, read_rows
from fw_sdk.cli.run import run
from fw_sdk.shipped import FILES, examples, load_example

FOLDER = Path(__file__).parents[1] / "examples"
MADE = ("broken-tickets", "dates", "order-numbers", "orders", "tickets")
SOUND = tuple(name for name in MADE if name != "broken-tickets")
ROWS = {"dates": (480, 150), "order-numbers": (100, 100), "orders": (360, 120), "tickets": (320, 160)}


def load(name, part):
    spec = importlib.util.spec_from_file_location(f"{name}_{part}".replace("-", "_"), FOLDER / name / f"{part}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(name, side):
    return read_rows(FOLDER / name / f"{side}.jsonl")


def contents(row):
    return [message["content"] for message in row.messages]


def score(name, row, answer):
    evaluate = load(name, "evaluator").evaluate
    fields = {key: value for key, value in row.data.items() if key not in ("messages", "ground_truth")}
    return evaluate([*row.prompt, {"role": "assistant", "content": answer}], row.ground_truth, **fields)


def test_all_of_them_are_known_here():
    assert {path.parent.name for path in FOLDER.glob("*/evaluator.py")} == {*MADE, "function-calling"}


@pytest.mark.parametrize("name", SOUND)
def test_rows_answer_themselves_and_no_prompt_is_on_both_sides(name):
    train, heldout = rows(name, "train"), rows(name, "heldout")
    assert (len(train), len(heldout)) == ROWS[name]
    assert overlap(heldout, train).shared == 0
    assert len({tuple(contents(row)) for row in train + heldout}) == len(train) + len(heldout)
    for row in train + heldout:
        assert set(score(name, row, row.messages[-1]["content"]).values()) == {1.0}, row
        assert [message["role"] for message in row.messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize("name", SOUND)
def test_a_wrong_answer_and_none_score_nothing(name):
    first, *others = rows(name, "heldout")
    wrong = next(row.messages[-1]["content"] for row in others if row.messages[-1] != first.messages[-1])
    for answer in (wrong, "", "I am not sure.", "{}", f"{first.messages[-1]['content']} I hope this helps!"):
        assert score(name, first, answer)["score"] == 0.0
    check_source((FOLDER / name / "evaluator.py").read_text())


@pytest.mark.parametrize("name", MADE)
def test_the_script_makes_the_same_bytes(name, tmp_path):
    for shipped in {name, "tickets"}:
        (tmp_path / shipped).mkdir()
        for path in (FOLDER / shipped).glob("*.*"):
            (tmp_path / shipped / path.name).write_bytes(path.read_bytes())
    build = load(name, "build")
    build.__file__ = str(tmp_path / name / "build.py")
    if hasattr(build, "TICKETS"):
        build.TICKETS = tmp_path / "tickets"
    for side in ("train", "heldout"):
        (tmp_path / name / f"{side}.jsonl").unlink()
    build.main()
    for side in ("train", "heldout"):
        assert (tmp_path / name / f"{side}.jsonl").read_bytes() == (FOLDER / name / f"{side}.jsonl").read_bytes()


def test_what_is_held_out_is_new():
    build = load("orders", "build")
    words = {side: " ".join(contents(row)[1] for row in rows("orders", side)) for side in ("train", "heldout")}
    for values in (build.CUSTOMERS, build.ITEMS, build.CITIES):
        assert not any(value in words["train"] for value in build.part(values, "heldout"))
    answers = [{contents(row)[2] for row in rows("dates", side)} for side in ("train", "heldout")]
    assert not answers[0] & answers[1]
    issues = load("tickets", "build").ISSUES.values()
    asked = " ".join(contents(row)[1] for row in rows("tickets", "train"))
    assert not any(issue in asked for of_queue in issues for issue in of_queue[8:])


def test_queues_are_equally_frequent_so_that_accuracy_is_macro_accuracy():
    for side, each in (("train", 40), ("heldout", 20)):
        assert set(Counter(contents(row)[2] for row in rows("tickets", side)).values()) == {each}


def test_the_broken_rows_are_found_by_line_and_mended_as_the_page_says():
    folder = FOLDER / "broken-tickets"
    lines = (folder / "train.jsonl").read_text().splitlines()
    report = validate_file(folder / "train.jsonl", SplitRule(0.1, 0)).report
    errors = {problem.line: problem.code for problem in report.problems if problem.severity == "error"}
    assert errors == {5: "bad_json", 11: "role_order", 17: "unknown_role"}
    usable = [line for number, line in enumerate(lines, 1) if number not in errors]
    turned = json.dumps(json.loads(usable[0], object_pairs_hook=lambda pairs: dict(pairs[::-1])))
    recipe = (FOLDER.parent / "docs" / "recipes.md").read_text()
    command = re.search(r'python3 -c ".*?"(?= < broken-tickets)', recipe, re.DOTALL)[0]
    text = "\n".join([*usable, turned])
    kept = subprocess.run(["bash", "-c", command], input=text, text=True, capture_output=True, check=True).stdout
    kept = kept.splitlines()
    assert (len(lines), len(usable), len(kept)) == (330, 327, 321)
    mended = [Row(number, json.loads(line)) for number, line in enumerate(kept, 1)]
    found = overlap(rows("broken-tickets", "heldout"), mended)
    assert [(pair.line, pair.other_line) for pair in found.pairs] == [
        (1, 11),
        (2, 13),
        (3, 18),
        (4, 21),
    ] and found.shared == 4


def test_an_example_is_copied_once_and_never_over_something_else(tmp_path):
    copied = load_example("tickets").copy(tmp_path / "there")
    assert copied.train.read_bytes() == (FOLDER / "tickets" / "train.jsonl").read_bytes()
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == sorted(FILES)
    copied.evaluator.write_text("mine")
    copied.train.unlink()
    with pytest.raises(fw.AlreadyExistsError, match=r"evaluator\.py"):
        load_example("tickets").copy(tmp_path / "there")
    assert copied.evaluator.read_text() == "mine" and not copied.train.exists()
    with pytest.raises(fw.NotFoundError, match="'tickets'"):
        load_example("ticket")


def test_every_example_says_in_a_line_what_it_is(capsys):
    for example in examples():
        assert 30 < len(example.purpose) < 130 and example.purpose.endswith(".")
    assert run(["example", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {item["name"]: (item["rows"], item["heldout"]) for item in listed}.items() >= ROWS.items()

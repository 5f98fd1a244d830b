"""Every way a row can be wrong, with its line; and the split, which depends on nothing but the rows."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.control.inventory.dataset_rows import MAX_PROBLEMS, SplitRule, validate_file
from engine.control.inventory.token_lengths import LengthCounter
from engine.control.tests.support import write_rows
from engine.jobs.rows import read_rows
from engine.text.renderer import Renderer
from fw_sdk.types import Split

RULE = SplitRule(0.1, 0)
USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
GOOD = json.dumps({"messages": [USER, ANSWER]}).encode()


def row(*messages, **fields):
    return json.dumps({"messages": list(messages), **fields}).encode()


BAD = [
    (b"{", "bad_json", "column"),
    (b'{"messages": NaN}', "bad_json", "NaN"),
    (b"[1]", "not_an_object", "list"),
    (b'"text"', "not_an_object", "text"),
    (b"{}", "no_messages", "missing"),
    (b'{"conversations": []}', "no_messages", "'conversations'"),
    (b'{"messages": []}', "no_messages", "empty"),
    (b'{"messages": {"role": "user"}}', "no_messages", "list"),
    (row("hi"), "bad_message", "message 1"),
    (row({"content": "hi"}, ANSWER), "no_role", "message 1"),
    (row({"role": "human", "content": "hi"}, ANSWER), "unknown_role", "'human'"),
    (row({"role": ["user"], "content": "hi"}, ANSWER), "unknown_role", "user"),
    (row({"role": "user"}, ANSWER), "no_content", "message 1"),
    (row({"role": "user", "content": 5}, ANSWER), "no_content", "no text"),
    (row({"role": "user", "content": [{"type": "image_url"}]}, ANSWER), "no_content", "message 1"),
    (row({"role": "user", "content": " \n"}, ANSWER), "no_content", "message 1 (user) is empty"),
    (row({"role": "user", "content": [{"type": "text", "text": ""}]}, ANSWER), "no_content", "(user) is empty"),
    (row(USER, ANSWER, {"role": "user", "content": ""}, ANSWER), "no_content", "message 3"),
    (row(USER, {"role": "assistant", "content": " \n"}), "empty_completion", "message 2"),
    (row(USER), "role_order", "last message"),
    (row(USER, ANSWER, USER), "role_order", "last message"),
    (row(ANSWER), "role_order", "begins"),
    (row({"role": "system", "content": "s"}, ANSWER), "role_order", "begins"),
    (row(USER, {"role": "system", "content": "s"}, ANSWER), "role_order", "message 2"),
    (b'{"messages": "\xff"}', "invalid_utf8", "byte 15"),
    (GOOD[:-1] + b"\0}", "nul_byte", "NUL"),
    (row({"role": "user", "content": "\ud800"}, ANSWER), "invalid_unicode", "surrogate"),
    (b"[" * 100_000, "bad_json", "JSON"),
]


@pytest.mark.parametrize(("line", "code", "words"), BAD, ids=[f"{n}-{bad[1]}" for n, bad in enumerate(BAD)])
def test_each_bad_row_is_named_by_its_line_and_code(tmp_path, line, code, words):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD.replace(b"hi", b"ho"))
    report = validate_file(path, RULE).report
    assert [(p.line, p.code, p.severity) for p in report.problems] == [(3, code, "error")]
    assert words in report.problems[0].message and not report.ok
    assert report.problems[0].quotes == (code == "unknown_role" or words == "'conversations'")
    assert report.problems[0].beginning == line.decode(errors="replace")[:160]
    assert (report.rows, report.valid_rows) == (3, 2)


@pytest.mark.parametrize(
    "line",
    [
        GOOD,
        row({"role": "system", "content": ""}, USER, ANSWER),
        row(USER, {**CALLING, "content": ""}, {"role": "tool", "content": ""}, ANSWER),
        row(USER, ANSWER, USER, ANSWER, ground_truth={"any": 1}, extra=[None]),
        row({"role": "user", "content": [{"type": "text", "text": "hi"}]}, ANSWER),
        row(USER, CALLING, USER, ANSWER),
        GOOD + b"\r",
        '{"messages": [{"role": "user", "content": "\u2028 日本"}, {"role": "assistant", "content": "é"}]}'.encode(),
    ],
)
def test_good_rows_have_no_problem_and_readers_find_the_same_row(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line + b"\n")
    found = validate_file(path, RULE)
    assert found.report.ok and found.report.problems == [] and found.report.valid_rows == 1
    assert found.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert [r.data for r in read_rows(path)] == [json.loads(line)]


def test_rows_without_answer_but_with_ground_truth_and_duplicates_are_warnings(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD, row({**USER, "content": "ho"}, ground_truth="x"), GOOD]))
    report = validate_file(path, RULE).report
    assert [(p.line, p.code, p.severity) for p in report.problems] == [
        (2, "no_answer", "warning"),
        (3, "duplicate", "warning"),
    ]
    assert report.ok and report.duplicate_rows == 1 and "line 1" in report.problems[1].message


def test_rows_that_ask_the_same_and_want_another_answer_are_warned_of(tmp_path):
    other = {"role": "assistant", "content": "no"}
    lines = [
        GOOD,
        row({"role": "user", "content": " HI\n"}, other),  # line 2: the same but for case and spacing
        row({"role": "system", "content": "Disagree."}, USER, other),
        row(USER, ANSWER, ground_truth="yo", source="elsewhere"),
        row(USER, CALLING),  # line 5
        row(USER, other, tools=[{"name": "f"}]),
        row(USER, {**ANSWER, "content": "yo, because"}, ground_truth="yo"),
        row(USER, other, ground_truth="no"),  # line 8
        row({"role": "user", "content": "call"}, {**ANSWER, "tool_calls": [{"id": "1"}]}),
        row({"role": "user", "content": "call"}, {**ANSWER, "tool_calls": [{"id": "2"}]}),  # line 10
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    report = validate_file(path, RULE).report
    assert [(p.line, p.code, p.severity) for p in report.problems] == [
        (2, "conflicting_answers", "warning"),
        (4, "duplicate", "warning"),
        *((line, "conflicting_answers", "warning") for line in (5, 8, 10)),
    ]
    assert report.ok and report.valid_rows == 10 and report.duplicate_rows == 1
    assert "same prompt as line 1" in report.problems[0].message


def test_the_same_question_in_other_words_marks_is_a_duplicate_and_a_lone_label_is_warned_of(tmp_path):
    def asked(text, answer):
        return row({"role": "user", "content": text}, {"role": "assistant", "content": answer})

    lines = [asked(f"Where is box {n}?", ("shop", "depot")[n % 2]) for n in range(30)]
    lines += [asked("where is box 3", "depot"), asked("Where is box 40", "shpo")]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    report = validate_file(path, RULE).report
    assert [(p.line, p.code) for p in report.problems] == [(31, "duplicate"), (32, "rare_answer")]
    assert report.ok and "line 4" in report.problems[0].message and "31 rows" in report.problems[1].message
    path.write_bytes(b"\n".join([*lines, *(asked(f"Box {n} now?", f"room {n}") for n in range(40))]))
    assert [p.code for p in validate_file(path, RULE).report.problems] == ["duplicate"]


def test_a_byte_order_mark_an_empty_file_and_an_endless_line_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content, code in ((b"\xef\xbb\xbf" + GOOD, "byte_order_mark"), (b"\n \n", "empty"), (b"", "empty")):
        path.write_bytes(content)
        report = validate_file(path, RULE).report
        assert [p.code for p in report.problems] == [code] and not report.ok
    path.write_bytes(b"x" * (17 * 1024**2) + b"\n" + GOOD)
    found = validate_file(path, RULE)
    assert [(p.line, p.code) for p in found.report.problems] == [(1, "line_too_long")] and found.report.rows == 2
    assert found.bytes == path.stat().st_size


def test_problems_are_capped_and_an_error_is_never_hidden_by_warnings(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD] * (MAX_PROBLEMS + 21) + [b"{"]))
    report = validate_file(path, RULE).report
    assert len(report.problems) == MAX_PROBLEMS and report.problems_omitted == 21
    assert not report.ok and report.duplicate_rows == MAX_PROBLEMS + 20


def test_rows_longer_than_the_context_are_found_with_their_length(tmp_path, tiny_llama_dir):
    path = write_rows(tmp_path / "rows.jsonl", 5)
    long = row(USER, {"role": "assistant", "content": "word " * 200})
    path.write_bytes(path.read_bytes() + long)
    renderer = Renderer.load(tiny_llama_dir)
    found = validate_file(path, RULE, LengthCounter("other", 100, renderer, asked_for=False)).report
    assert [(p.line, p.code, p.severity) for p in found.problems] == [(6, "too_long", "warning")]
    assert found.ok and found.valid_rows == 6 and "'other'" in found.problems[0].message
    report = validate_file(path, RULE, LengthCounter("tiny", 100, renderer, asked_for=True)).report
    assert [(p.line, p.code, p.severity) for p in report.problems] == [(6, "too_long", "error")]
    assert not report.ok and report.valid_rows == 5
    expected = sorted(len(renderer.render_training(r.messages)[0]) for r in read_rows(path))
    assert str(expected[-1]) in report.problems[0].message
    tokens = report.tokens
    assert (tokens.total, tokens.min, tokens.max) == (sum(expected), expected[0], expected[-1])
    assert sum(count for _, count in tokens.histogram) == 6 and tokens.histogram[-1][0] >= tokens.max


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(TEXT, min_size=1, max_size=12),
    fraction=st.floats(0, 0.5),
    seed=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
)
def test_the_split_depends_on_the_rows_alone(tmp_path_factory, prompts, fraction, seed, order):
    path = tmp_path_factory.mktemp("split") / "rows.jsonl"
    lines = [
        row({"role": "user", "content": p}, {"role": "assistant", "content": str(n)}) for n, p in enumerate(prompts)
    ]

    def sides(lines):
        path.write_bytes(b"\n".join(lines))
        report = validate_file(path, SplitRule(fraction, seed)).report
        parts = {s: read_rows(path, s, heldout_fraction=fraction, split_seed=seed) for s in Split}
        assert (report.train_rows, report.heldout_rows) == (len(parts[Split.TRAIN]), len(parts[Split.HELDOUT]))
        train, heldout = ({r.messages[0]["content"] for r in parts[s]} for s in (Split.TRAIN, Split.HELDOUT))
        assert not train & heldout and train | heldout == set(prompts)
        return train, heldout

    first = sides(lines)
    shuffled = list(lines)
    order.shuffle(shuffled)
    assert sides(shuffled) == first
    assert sides(lines + lines) == first

"""What is trained, and what is refused before anything is."""

from __future__ import annotations

import pytest

from engine.jobs.rows import Row
from engine.text.renderer import Renderer
from engine.training.examples import Example, render_examples, usable_examples
from engine.training.preview import preview
from fw_sdk.types import FwError


def row(line, *contents):
    roles = ("system", "user", "assistant", "user", "assistant")
    return Row(line, {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]})


@pytest.fixture(scope="module")
def renderer(tiny_llama_dir):
    return Renderer.load(tiny_llama_dir)


def test_only_answers_and_the_token_that_ends_them_are_trained(renderer):
    (tokens,) = preview([row(1, "Be brief.", "Wo ist 今日?", "Paris, 今日は!", "And?", "Nothing.")], renderer, 5)
    shown = "".join(token.text for token in tokens)
    assert shown.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert "Wo ist 今日?" in shown
    assert "".join(token.text for token in tokens if token.trained) == "Paris, 今日は!<|im_end|>Nothing.<|im_end|>"


def test_tool_calls_are_trained_and_tools_are_shown(renderer):
    call = {"type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [{"role": "user", "content": "Time?"}, {"role": "assistant", "tool_calls": [call]}]
    tools = [{"type": "function", "function": {"name": "now", "description": "The time."}}]
    (tokens,) = preview([Row(1, {"messages": messages, "tools": tools})], renderer, 1)
    trained = "".join(token.text for token in tokens if token.trained)
    assert trained == '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>'
    assert "The time." in "".join(token.text for token in tokens)


def test_a_preview_shows_as_many_rows_as_it_is_asked_for(renderer):
    rows = [row(line, "a", "b", "c") for line in range(1, 6)]
    assert len(preview(rows, renderer, 3)) == 3


def test_rows_that_are_too_long_are_named_by_line_and_never_cut(renderer):
    examples = render_examples([row(1, "a", "b", "c"), row(7, "a", "b " * 300, "c")], renderer)
    with pytest.raises(FwError) as caught:
        usable_examples(examples, 100)
    assert caught.value.code == "dataset_invalid"
    assert "line 7" in caught.value.message
    assert caught.value.details["lines"] == [7]
    assert len(usable_examples(examples, 10_000)) == 2


def test_rows_without_a_trained_token_are_left_out_and_nothing_else_is_refused(renderer):
    examples = render_examples([row(1, "a", "b"), row(2, "a", "b", "c")], renderer)
    assert [example.line for example in usable_examples(examples, 1000)] == [2]
    with pytest.raises(FwError) as caught:
        usable_examples(examples[:1], 1000)
    assert caught.value.code == "dataset_invalid"
    assert caught.value.not_done and caught.value.hint


def test_an_error_of_the_template_names_the_line(renderer):
    with pytest.raises(FwError) as caught:
        render_examples([row(1, "a", "b", "c"), Row(12, {"messages": [{"content": "no role"}]})], renderer)
    assert "Line 12" in caught.value.message


def test_the_first_token_is_never_counted():
    class Everything:
        def render_training(self, messages, tools=None):
            return [1, 2, 3], [True, True, True]

    (example,) = render_examples([row(1, "a")], Everything())
    assert example == Example(1, (1, 2, 3), (False, True, True))
    assert (example.trained_tokens, example.first_trained) == (2, 1)

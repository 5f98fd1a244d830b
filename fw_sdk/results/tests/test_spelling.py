"""Actions as tool calls and commands, and hints over HTTP in the words of both."""

from __future__ import annotations

import re

import pytest

from fw_sdk.results.actions import OPEN, Action, Placeholder
from fw_sdk.results.hints import AGENT, SHELL, in_words_of
from fw_sdk.results.spelling import command, tool_call


@pytest.mark.parametrize(
    ("only", "words"), [("models", "fw model list"), ("deployments", "fw deploy list"), (None, "fw status")]
)
def test_lists_have_commands(only: str | None, words: str) -> None:
    assert command(Action("overview", {"only": only} if only else {})) == words


def test_a_tool_call_is_what_an_agent_can_send() -> None:
    assert tool_call(Action("deploy", {"model": "m", "force": True, "margin": 0.05})) == (
        "deploy(model='m', force=true, margin=0.05)"
    )
    assert tool_call(Action("evaluate", {"model": "m", "data": OPEN})) == "evaluate(model='m', data=...)"
    assert (
        tool_call(Action("customize", {"heldout": Placeholder("a file")}, True)) == "customize(..., heldout='<a file>')"
    )
    assert tool_call(Action("generate", {"prompts": ["..."]})) == "generate(prompts=['...'])"


def test_a_name_with_a_space_is_one_word_of_the_shell() -> None:
    assert command(Action("dataset", {"path": "my rows.jsonl"})) == "fw dataset check 'my rows.jsonl'"


HINTS = (
    "GET /v1/accounts/local/evaluators lists them.",
    "GET /v1/accounts/local/evaluationJobs lists them",
    "wait for it: GET /v1/accounts/local/jobs/ev-1:wait",
    "GET /v1/accounts/local/jobs/p.1-x:wait",
    "upload them: POST /v1/accounts/local/datasets/rows:upload",
    "pass a deployment's or a model's id; GET /v1/models lists what answers now",
    "try it with POST /v1/completions",
    'POST /v1/accounts/local/models:pull {"source": "smollm2-135m"}',
    "POST /v1/accounts/local/datasets, then its :upload",
    "POST /v1/accounts/local/evaluatorsV2",
    "POST /v1/accounts/local/jobs/p-1:resume, after reading its failure",
    "POST /v1/accounts/local/pipelines",
    "POST /v1/chat/completions",
)


@pytest.mark.parametrize("hint", HINTS)
def test_no_surface_but_http_speaks_http(hint: str) -> None:
    for surface, mark in ((AGENT, "("), (SHELL, "fw ")):
        said = in_words_of(surface, hint)
        assert not re.search(r"/v1/|GET |POST ", said) and mark in said, said


def test_hints_keep_the_names_in_them() -> None:
    assert in_words_of(SHELL, HINTS[2]) == "wait for it: fw job wait ev-1"
    assert in_words_of(AGENT, HINTS[3]) == "job_wait(job_id='p.1-x')"
    assert in_words_of(SHELL, HINTS[7]) == "fw model pull smollm2-135m"
    assert in_words_of(SHELL, HINTS[10]) == "fw job resume p-1, after reading its failure"
    assert in_words_of(SHELL, HINTS[0]) == "fw evaluator list lists them."
    assert in_words_of(AGENT, HINTS[1]) == "overview(only='jobs') lists them"
    hint = "use split 'all', or create the dataset with a larger heldoutFraction"
    assert in_words_of(SHELL, hint) == "use --split all, or create the dataset with a larger --heldout-fraction"
    assert in_words_of(AGENT, hint) == "use split='all', or create the dataset with a larger heldout_fraction"

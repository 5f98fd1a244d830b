"""The pages are small, say what they are for, and are found by what people ask."""

from __future__ import annotations

import pytest

from fw_mcp.library import pages, purpose, search


@pytest.mark.parametrize("page", pages())
def test_a_page_says_what_it_is_for(page: str) -> None:
    lines = pages()[page].splitlines()
    assert lines[0].startswith("# ") and lines[1] == ""
    assert 20 < len(purpose(page)) < 200


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("how do I write an evaluator", "evaluators"),
        ("what does inconclusive mean", "evaluation"),
        ("McNemar", "evaluation"),
        ("held-out split fraction", "datasets"),
        ("jsonl row format messages", "datasets"),
        ("learning rate lora rank epochs", "fine-tuning"),
        ("stop a deployment", "deployments"),
        ("gate not_worse margin", "deployments"),
        ("openai client base_url", "inference"),
        ("claude mcp add", "mcp"),
        ("exit codes of the command line", "cli"),
        ("AsyncClient python", "sdk"),
        ("is the evaluator sandboxed", "security"),
        ("port_in_use", "errors"),
        ("what is in a job's directory", "architecture"),
        ("lora_rank", "fine-tuning"),
        ("FW_WORKSPACE", "mcp"),
        ("install and first run", "quickstart"),
    ],
)
def test_search_puts_the_page_that_answers_in_front(query: str, page: str) -> None:
    hits = search(query, 4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert page in [hit.page for hit in hits[:2]], [(hit.page, hit.heading, hit.score) for hit in hits]


def test_nothing_is_found_for_nonsense() -> None:
    assert search("zzzzqqq") == []
    assert search("") == []

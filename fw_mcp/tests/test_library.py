"""The pages are small, say what they are for, and are found by what people ask."""

from __future__ import annotations

import pytest

from fw_mcp.library import RECORDS, pages, prompt, purpose, search


@pytest.mark.parametrize("page", pages())
def test_a_page_says_what_it_is_for(page: str) -> None:
    lines = pages()[page].splitlines()
    assert lines[0].startswith("# ") and lines[1] == ""
    assert 20 < len(purpose(page)) < 200


@pytest.mark.parametrize("page", sorted(pages().keys() - RECORDS))
def test_a_page_begins_with_an_example_has_its_options_in_a_table_and_ends_with_what_fails(page: str) -> None:
    top, *sections = pages()[page].split("\n## ")
    assert "```" in top and "|---" in pages()[page]
    if page not in ("errors", "troubleshooting"):  # they are about nothing else
        assert sections[-1].startswith("When it fails") and "|---" in sections[-1]


def test_prompts_fill_in_what_they_are_given() -> None:
    assert "better at this task: sort {mail}. The training rows are in d.jsonl." in prompt(
        "customize", task="sort {mail}", data="d.jsonl"
    )
    assert prompt("diagnose", job_id="train-1").count("train-1") == 2


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


@pytest.mark.parametrize(
    ("question", "answered_by"),
    [
        ("how do I write an evaluator", "evaluators"),
        ("out of memory", "errors fine-tuning serving troubleshooting"),
        ("resume a failed job", "troubleshooting fine-tuning"),
        ("stop sequences", "inference"),
        ("what does not_worse mean", "deployments"),
        ("how many held-out rows do I need", "datasets evaluation troubleshooting"),
        ("run on a GPU", "serving models"),
        ("quantise a model to int4", "models"),
        ("pull a model from hugging face", "models"),
        ("gated private model needs a token", "models"),
        ("stream tokens as they come", "inference"),
        ("force the answer to fit a JSON schema", "inference"),
        ("tool calling with tool_choice required", "inference"),
        ("embeddings", "inference models"),
        ("which learning rate should I use", "fine-tuning"),
        ("what does lora_rank do", "fine-tuning"),
        ("how do I cancel a running job", "cli mcp"),
        ("dataset_invalid", "datasets errors"),
        ("evaluator takes too long, timeout", "evaluators"),
        ("is my data sent anywhere", "security"),
        ("401 unauthorized wrong token", "errors mcp troubleshooting"),
        ("port already in use", "errors troubleshooting"),
        ("what is a pipeline", "concepts"),
        ("where are the files stored on disk", "architecture concepts"),
        ("confidence interval of a score", "evaluation"),
        ("verdict is inconclusive, what now", "evaluation"),
        ("few-shot baseline examples in the prompt", "evaluation"),
        ("install the MCP server in cursor or vscode", "mcp"),
        ("exit code 8", "cli quickstart"),
        ("roll back a deployment", "deployments"),
        ("example data to try", "recipes"),
        ("extract JSON from text", "recipes"),
        ("remove duplicates from my dataset", "datasets recipes"),
        ("cleaning data", "recipes"),
        ("mend broken rows", "recipes"),
        ("several adapters at the same time", "deployments"),
        ("prefix cache hits", "serving"),
        ("speculative decoding", "serving"),
        ("log probabilities of the answer", "inference"),
        ("asynchronous python client", "sdk"),
        ("which tokens are trained, preview", "fine-tuning"),
        ("FW_HOME environment variable", "cli"),
        ("format of train.jsonl", "datasets"),
        ("system prompt message in rows", "datasets"),
        ("classify support tickets", "recipes"),
        ("train and held-out overlap leak", "datasets recipes"),
        ("is it worth fine-tuning at all", "fine-tuning recipes evaluation"),
        ("how long will training take", "fine-tuning"),
        ("job stuck in pending", "troubleshooting"),
        ("loss is nan diverged", "errors"),
        ("connection refused daemon not running", "troubleshooting"),
        ("429 too many requests", "serving"),
        ("does it survive a crash of the machine", "troubleshooting"),
        ("custom base url openai", "inference"),
        ("anthropic messages api", "inference"),
        ("delete a dataset", "datasets"),
        ("max_tokens answers are cut", "troubleshooting"),
        ("read only mode of the server", "mcp"),
        ("can I load the adapter in transformers peft", "fine-tuning"),
        ("what architecture families are supported", "models"),
        ("seed reproducible sampling", "inference"),
        ("compare two adapters which is better", "evaluation"),
        ("how do I know if my evaluator is good", "evaluators"),
        ("answers are garbage after training", "troubleshooting fine-tuning"),
        ("tool_calls in training rows", "datasets"),
        ("how to see the loss curve", "mcp fine-tuning"),
        ("why was it not deployed", "deployments"),
        ("kv cache size", "cli serving"),
        ("call the deployed model with curl", "deployments inference"),
        ("where are the logs", "troubleshooting"),
        ("uninstall", "troubleshooting"),
        ("upgrade to a newer version", "troubleshooting"),
    ],
)
def test_what_an_agent_asks_is_answered_by_the_first_hit(question: str, answered_by: str) -> None:
    """The first hit, not one of the first: an agent reads one page. Several pages where each of them answers."""
    hits = search(question, 4)
    assert hits and hits[0].page in answered_by.split(), [(hit.page, hit.heading, hit.score) for hit in hits]


def test_no_hit_says_what_a_better_one_has_said() -> None:
    for query in ("out of memory", "gate_not_met", "learning rate", "evaluator", "dataset_invalid", "seed"):
        hits = search(query, 10)
        texts = [(hit.page, hit.excerpt) for hit in hits]
        assert len(hits) > 2
        assert not any(
            page == other and text in said
            for number, (page, text) in enumerate(texts)
            for other, said in texts[:number]
        )


def test_nothing_is_found_for_nonsense() -> None:
    assert search("zzzzqqq") == []
    assert search("") == []

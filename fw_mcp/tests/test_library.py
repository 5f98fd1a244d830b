"""The pages are small, say what they are for, and are found by what people ask."""

from __future__ import annotations

import pytest

from fw_mcp.library import GAP, MAX_EXCERPT_CHARS, RECORDS, covered, pages, prompt, purpose, search, unknown_words


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
        ("classification", "recipes"),
        ("quantized weights", "models"),
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
        ("is my data sent anywhere", "data-protection security"),
        ("401 unauthorized wrong token", "errors mcp troubleshooting"),
        ("port already in use", "errors troubleshooting"),
        ("what is a pipeline", "concepts"),
        ("where are the files stored on disk", "architecture concepts data-protection"),
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
        ("delete a dataset", "data-protection datasets"),
        ("max_tokens answers are cut", "troubleshooting"),
        ("read only mode of the server", "mcp"),
        ("can I load the adapter in transformers peft", "fine-tuning"),
        ("what architecture families are supported", "models"),
        ("seed reproducible sampling", "inference"),
        ("compare two adapters which is better", "evaluation"),
        ("how do I know if my evaluator is good", "evaluators"),
        ("answers are garbage after training", "troubleshooting fine-tuning"),
        ("tool_calls in training rows", "datasets"),
        ("what happens to my training if the daemon is killed", "fine-tuning"),
        ("partial credit for lists in the marker", "evaluators"),
        ("how to see the loss curve", "mcp fine-tuning"),
        ("why was it not deployed", "deployments"),
        ("kv cache size", "cli serving"),
        ("call the deployed model with curl", "deployments inference"),
        ("where are the logs", "data-protection troubleshooting"),
        ("uninstall", "troubleshooting"),
        ("upgrade to a newer version", "troubleshooting"),
        ("encryption at rest", "data-protection"),
        ("is there a warranty", "data-protection"),
        ("erase personal data", "data-protection"),
        ("audit trail", "data-protection"),
        ("do logs contain prompts and answers", "data-protection"),
        ("power failure", "data-protection"),
        ("start the daemon at boot with systemd", "data-protection"),
        ("rotate the tokens", "data-protection"),
        ("how long is data kept, retention", "data-protection"),
        ("two trainings with the same seed", "data-protection"),
        ("telemetry and error reports", "data-protection"),
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


def test_words_that_no_page_has_are_named_as_they_were_asked() -> None:
    assert unknown_words("how do I photosynthesise Kubernetes clusters for evaluations?") == [
        "photosynthesise",
        "kubernetes",
        "clusters",
    ]
    assert unknown_words("deploying, deployments and the lora_rank") == []


def test_a_query_is_covered_by_what_its_hits_say() -> None:
    assert covered("lora_rank", search("lora_rank")) == pytest.approx(1.0)
    assert covered("zzzzqqq", []) == 0.0
    assert 0.0 < covered("zzzzqqq yyyy job", search("zzzzqqq yyyy job")) < 0.25


def test_a_row_names_its_heading_and_a_cut_excerpt_shows_its_gaps() -> None:
    rows = [hit for hit in search("lora_rank", 10) if hit.row]
    assert rows and (rows[0].page, rows[0].heading, rows[0].row) == ("fine-tuning", "Settings", "`lora_rank`")
    for query in ("out of memory", "learning rate", "evaluator", "telemetry", "tokens"):
        for hit in search(query, 10):
            said = [line for line in pages()[hit.page].split("\n") if line]
            kept = [line for line in hit.excerpt.split("\n") if line and line != GAP]
            assert len(hit.excerpt) <= MAX_EXCERPT_CHARS and kept == [line for line in kept if line in said]
            assert hit.row or GAP in hit.excerpt.split("\n") or hit.excerpt in pages()[hit.page]

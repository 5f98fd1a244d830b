"""What the gateway changes in a request before a worker sees it."""

from __future__ import annotations

import json

import pytest

from engine.control.evidence.gates import sampled
from engine.control.gateway.relay import Ask
from fw_sdk.types import Comparison, Evidence, InferenceParameters, Ref, ServedConfiguration

SCORED = {"temperature": 0.0, "top_p": 0.9}


def sent(path: str, **fields: object) -> dict[str, object]:
    ask = Ask.parse(path, {"model": "shop", **fields}, "r-1")
    return json.loads(ask.for_worker("adapter-1", SCORED))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_a_deployment_answers_as_it_was_scored_unless_the_client_says_how(path: str) -> None:
    assert sent(path) == {"model": "adapter-1", **SCORED}
    assert sent(path, temperature=None)["temperature"] == 0.0
    assert sent(path, temperature=0.7) == {"model": "adapter-1", "temperature": 0.7, "top_p": 0.9}


def test_what_draws_no_tokens_is_left_alone() -> None:
    assert sent("/v1/embeddings", input="x") == {"model": "adapter-1", "input": "x"}


def test_the_sampling_of_other_weights_does_not_count() -> None:
    asked = InferenceParameters(temperature=0.3, top_p=0.8)
    evaluated = ServedConfiguration(
        model="m",
        model_digest="sha256:a",
        base_digest="sha256:b",
        dtype="float32",
        template_digest="t",
        sampling=asked.to_wire(),
    )
    model = Ref(name="accounts/local/models/m", digest="sha256:a")
    side = Evidence(evaluation=Ref(name="accounts/local/evaluationJobs/e"), model=model, configuration=evaluated)
    comparison = Comparison.model_construct(candidate_evidence=side)
    assert sampled(comparison, "sha256:a") == {"temperature": 0.3, "top_p": 0.8}
    assert sampled(comparison, "sha256:other") == sampled(None, "sha256:a") == {}

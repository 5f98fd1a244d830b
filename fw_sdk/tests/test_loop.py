"""What ``customize`` takes, and what its result says."""

import json

import pytest

import fw_sdk as fw
from fw_sdk.loop import result_of, start_options
from fw_sdk.tests.scripted_server import Reply, scripted
from fw_sdk.types import Gate, InferenceParameters, Pipeline, parse_request

BASE = {"base_model": "m", "dataset": "d", "evaluator": "e"}


def request(**options):
    return parse_request(fw.CreatePipeline, {**BASE, **start_options(options)}, not_done="")


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "min_score": 0.8, "margin": 0.1, "epochs": 3, "seed": 7},
        {
            "inference_parameters": {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9},
            "gate": {"margin": 0.1, "min_score": 0.8},
            "training": {"epochs": 3, "seed": 7},
        },
        {
            "inference_parameters": InferenceParameters(temperature=0.5, top_p=0.9),
            "max_tokens": 9,
            "gate": Gate(margin=0.1),
            "min_score": 0.8,
            "training": fw.TrainingConfig(seed=7),
            "epochs": 3,
        },
    ],
)
def test_settings_may_stand_alone_or_in_their_field_as_dicts_or_models(options):
    made = request(**options)
    assert made.inference_parameters == InferenceParameters(max_tokens=9, temperature=0.5, top_p=0.9)
    assert made.gate == Gate(margin=0.1, min_score=0.8) and made.training == fw.TrainingConfig(epochs=3, seed=7)


def test_options_that_are_not_given_keep_the_servers_defaults():
    assert start_options({}) == {} and request() == fw.CreatePipeline(**BASE)
    assert request(few_shot_count=0, gate={"kind": "better"}).gate == Gate()


@pytest.mark.parametrize(("options", "says"), [({"max_token": 1}, "max_tokens"), ({"tempratur": 1}, "temperature")])
def test_a_misspelt_option_names_the_nearest(options, says):
    with pytest.raises(fw.InvalidArgumentError) as caught:
        start_options(options)
    assert says in caught.value.hint and caught.value.not_done == "nothing was started"


def test_a_field_that_is_no_dict_is_said():
    with pytest.raises(fw.InvalidArgumentError, match="'gate' must be a dict"):
        start_options({"gate": "better", "margin": 0.1})


@pytest.mark.parametrize("deployed", [True, False])
def test_a_result_says_why_it_is_deployed_or_why_not(deployed):
    words = {"deployed_because": "the gate holds"} if deployed else {"not_deployed_because": "the gate does not hold"}
    outcome = {"model": "accounts/local/models/m", "deployment": "d" if deployed else None, **words}
    pipeline = Pipeline(name="accounts/local/pipelines/p", kind="pipeline", outcome=outcome)
    result = result_of(fw.Client("http://localhost:1", "k"), pipeline)
    assert (result.deployment is not None) is (result.deployed_because is not None) is deployed
    assert (result.not_deployed_because is None) is deployed
    assert (result.deployed_because or result.not_deployed_because) in words.values()


@pytest.mark.parametrize(("asked", "sent"), [({}, 48), ({"max_tokens": 9}, 9)])
def test_a_result_answers_no_longer_than_scored_answers_may_be(asked, sent):
    choice = {"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    with scripted(lambda number, seen: Reply(body={"choices": [choice], "usage": {}})) as script:
        pipeline = Pipeline(
            name="accounts/local/pipelines/p",
            kind="pipeline",
            request={"inferenceParameters": {"maxTokens": 48}},
            outcome={"model": "accounts/local/models/m"},
        )
        assert result_of(fw.Client(script.url, "k"), pipeline).chat("Hello", **asked) == "Hi"
    assert json.loads(script.seen[0].body)["max_tokens"] == sent


def test_a_missing_file_is_of_the_class_that_customize_names(tmp_path):
    model = {"name": "accounts/local/models/m", "kind": "HF_BASE_MODEL", "state": "READY"}
    evaluator = {"name": "accounts/local/evaluators/e", "state": "ACTIVE", "digest": "sha256:0"}
    with (
        scripted(lambda number, seen: Reply(body=model if "/models/" in seen.path else evaluator)) as script,
        pytest.raises(fw.NotFoundError, match=r"nofile\.jsonl"),
    ):
        fw.customize("m", str(tmp_path / "nofile.jsonl"), "e", client=fw.Client(script.url, "k"))

"""Parts of a pipeline that need no process: its names, its check of the rows, its reports."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.control.kinds.pipeline.plan import LONGEST_ID, Plan, current_step, with_step
from engine.control.store import Store
from engine.control.workflows.check import check_rows
from engine.control.workflows.report import Forwarder, best_comparison, progress
from engine.jobs.rows import Row
from fw_sdk.types import (
    BaselineResult,
    Comparison,
    CreatePipeline,
    FwError,
    Interval,
    Job,
    JobKind,
    Pipeline,
    ScoreSummary,
    Split,
    Step,
    StepName,
    StepState,
    resource_id,
    resource_name,
)


def request(**changes) -> CreatePipeline:
    return CreatePipeline(**{"base_model": "base", "dataset": "calls", "evaluator": "exact", **changes})


def row(line: int, question: str) -> Row:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "yes"}]
    return Row(line, {"messages": turns})


@given(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?", fullmatch=True).filter(lambda name: len(name) <= LONGEST_ID),
    st.integers(1, 99),
)
def test_every_name_that_follows_from_an_accepted_id_is_a_valid_and_different_name(identifier, generation) -> None:
    plan = Plan(identifier, request(), generation)
    jobs = [plan.finetune_id, *(plan.evaluation_id(label) for label in ("base", "few_shot", "tuned"))]
    others = [plan.output_model, *(plan.comparison_id(label) for label in plan.baselines)]
    assert len({*jobs, *others, plan.id}) == len(jobs) + len(others) + 1
    for name in (*jobs, *others):
        assert resource_id(name, "things") == name


def test_the_scored_rows_are_never_the_trained_ones() -> None:
    own = Plan("p", request())
    assert own.finetune().dataset_split is Split.TRAIN
    assert own.evaluation("few_shot").evaluation_job.few_shot.split is Split.TRAIN
    assert {own.evaluation(label).evaluation_job.input_split for label in ("base", "few_shot", "tuned")} == {
        Split.HELDOUT
    }
    other = Plan("p", request(evaluation_dataset="heldout"))
    assert other.finetune().dataset_split is Split.ALL
    assert other.evaluation("tuned").evaluation_job.input_dataset == "heldout"


def test_all_three_evaluations_differ_only_in_model_and_examples() -> None:
    plan = Plan("p", request(evaluation_limit=7))
    base, few, tuned = (plan.evaluation(label).evaluation_job for label in ("base", "few_shot", "tuned"))
    assert few.model_copy(update={"few_shot": None}) == base
    assert tuned.model_copy(update={"model": base.model}) == base
    assert tuned.model == plan.output_model


def test_no_few_shot_baseline_when_its_count_is_zero() -> None:
    plan = Plan("p", request(few_shot_count=0))
    assert plan.baselines == ("base",)
    skipped = [step.name for step in Plan.first_steps(plan.request) if step.state is StepState.SKIPPED]
    assert skipped == [StepName.FEW_SHOT]


def test_steps_are_walked_in_order() -> None:
    steps, seen = Plan.first_steps(request()), []
    while (step := current_step(steps)) is not None:
        seen.append(step.name)
        steps = with_step(steps, step.model_copy(update={"state": StepState.DONE}))
    assert seen == list(StepName)
    assert progress(steps, "").percent == 100


def test_rows_on_both_sides_are_refused_with_their_lines() -> None:
    train, scored = [row(1, "a"), row(2, "b")], [row(1, "c"), row(5, "B ")]
    with pytest.raises(FwError) as caught:
        check_rows(Plan("p", request(evaluation_dataset="heldout")), train, scored)
    assert "1 of the 2 rows" in caught.value.message and "5 and 2" in caught.value.message
    assert "remove those rows" in caught.value.hint and caught.value.details["overlap"]["shared"] == 1
    check_rows(Plan("p", request()), train, scored[:1])


@pytest.mark.parametrize(("train", "scored"), [([], [row(1, "a")]), ([row(1, "a")], [])])
def test_a_side_without_rows_is_refused(train, scored) -> None:
    with pytest.raises(FwError, match="rows to train on") as caught:
        check_rows(Plan("p", request()), train, scored)
    assert caught.value.code == "failed_precondition" and "heldoutFraction" in caught.value.hint


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3))
def test_the_gate_sees_the_comparison_with_what_may_be_the_best_baseline(means) -> None:
    """A baseline's own mean takes rows without a score at the minimum, its comparison at the maximum."""

    def baseline(index: int, mean: float, lost: float) -> BaselineResult:
        ci = Interval(low=0, high=1)
        comparison = Comparison(
            name=f"accounts/local/comparisons/{index}",
            baseline=str(index),
            candidate="t",
            baseline_mean=mean,
            candidate_mean=1.0,
            delta=1.0 - mean,
            ci=ci,
            n=1,
            wins=1,
            losses=0,
            ties=0,
            verdict="better",
        )
        summary = ScoreSummary(n=1, mean=mean - lost, ci=ci)
        return BaselineResult(label=str(index), evaluation=str(index), summary=summary, comparison=comparison)

    best = best_comparison([baseline(index, *pair) for index, pair in enumerate(means)])
    assert best is not None and best.baseline_mean == max(mean for mean, _ in means)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("home") / "fw.db")
    yield store
    store.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["say", "count", "pass", "restart"]), max_size=20))
def test_each_event_of_a_child_is_passed_on_once_and_in_order(store: Store, moves) -> None:
    number = store.next_number("example")
    pipeline, child = f"p{number}", f"c{number}"
    step = Step(name=StepName.FINETUNE, state=StepState.RUNNING, job=child)
    store.jobs.create(Pipeline(name=resource_name("pipelines", pipeline), kind=JobKind.PIPELINE, steps=[step]))
    store.jobs.create(Job(name=resource_name("jobs", child), kind=JobKind.PULL))
    forwarder, said = Forwarder(store), []
    for index, move in enumerate([*moves, "pass"]):
        if move == "say":
            said.append(store.jobs.append_event(child, "metric", {"step": index, "loss": 0.5}))
        elif move == "count":
            store.jobs.append_event(child, "progress", {"done": index, "total": 20})
        elif move == "restart":
            forwarder = Forwarder(store)
        else:
            forwarder.pass_on(store.jobs.get(pipeline, Pipeline), step, store.jobs.get(child))
    passed = [event for event in store.jobs.events(pipeline) if event.type == "metric"]
    assert [event.data["jobSeq"] for event in passed] == [event.seq for event in said]
    assert [event.data["step"] for event in passed] == [event.data["step"] for event in said]
    assert all(event.data["pipelineStep"] == "finetune" for event in passed)
    json.dumps([event.to_wire() for event in passed])

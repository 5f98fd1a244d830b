"""Declared steps: what may mend is tried again so often, what lasts too long fails, and nothing else is repeated."""

import asyncio

import pytest

from engine.control.context import Context
from engine.control.settings import Settings
from engine.control.store import Store
from engine.control.workflows import steps as module
from engine.control.workflows.steps import Declared, Steps
from fw_sdk.types import CreatePipeline, FwError, JobKind, Pipeline, Step, StepName, StepState
from fw_sdk.types.home import Home

REQUEST = CreatePipeline(base_model="base", dataset="rows", evaluator="ev").to_wire()
PIPELINE = Pipeline(name="accounts/local/pipelines/p", kind=JobKind.PIPELINE, request=REQUEST)
CHECK = Step(name=StepName.CHECK)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Steps over a real store; the step *check* is the test's own."""
    monkeypatch.setattr(module, "RETRY_PAUSE_S", 0.001)
    home = Home(tmp_path / "home").prepare()
    store = Store(home.database)
    yield Steps(Context(home, Settings(), store))
    store.close()


def advance(steps, declared, times=1):
    steps.declared[StepName.CHECK] = declared
    step = CHECK

    async def run():
        nonlocal step
        for _ in range(times):
            step = await steps.advance(PIPELINE, step)

    asyncio.run(run())
    return step


def failing(code, failures):
    calls = []

    async def handler(_plan, _pipeline, step):
        calls.append(step)
        if len(calls) <= failures:
            raise FwError(code, f"failure {len(calls)}")
        return step.model_copy(update={"state": StepState.DONE})

    return handler, calls


def test_what_may_mend_is_tried_again(steps):
    handler, calls = failing("unavailable", 2)
    step = advance(steps, Declared(handler, retries=3), times=3)
    assert step.state is StepState.DONE and len(calls) == 3 and "failure 2" in calls[2].message


@pytest.mark.parametrize(("code", "tries"), [("unavailable", 3), ("invalid_argument", 1)])
def test_it_is_tried_so_often_and_no_oftener(steps, code, tries):
    handler, calls = failing(code, 99)
    with pytest.raises(FwError) as caught:
        advance(steps, Declared(handler, retries=2), times=9)
    assert caught.value.code == code and len(calls) == tries


def test_a_step_that_lasts_too_long_fails_and_says_so(steps):
    async def handler(_plan, _pipeline, step):
        await asyncio.sleep(60)
        return step

    with pytest.raises(FwError, match=r"Step 'check' took longer than 0.01 s") as caught:
        advance(steps, Declared(handler, timeout_s=0.01, retries=5))
    assert caught.value.code == "deadline_exceeded"


def test_the_time_of_a_step_is_that_of_all_its_moves(steps):
    async def handler(_plan, _pipeline, step):
        await asyncio.sleep(0.06)
        return step.model_copy(update={"state": StepState.RUNNING})

    with pytest.raises(FwError, match="took longer"):
        advance(steps, Declared(handler, timeout_s=0.1), times=20)

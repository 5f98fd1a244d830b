"""Weights changed in place: what runs is aborted, finished or goes on; nothing of the old is shared with the new."""

import asyncio
import threading

import pytest
import torch

from engine.inference import Engine, EngineConfig, EngineLoop, Request, SamplingParams
from engine.inference.tests.test_packed import PACKABLE
from engine.inference.tests.tiny import tiny_adapter, tiny_model
from engine.models import load_model
from fw_sdk.types import FwError
from kernels import native

PROMPT = tuple(range(40, 80))
GREEDY = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
LONG = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True)
CONFIG = EngineConfig(kv_bytes=1 << 20, max_batched_tokens=64)
KINDS = ["float32"] if native.library() is None else ["float32", "int8"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("updates")
    models = {name: tiny_model(root / name, seed=seed, **PACKABLE) for seed, name in enumerate(("old", "new"))}
    adapters = {name: tiny_adapter(root / name, models["old"], seed=seed) for seed, name in ((5, "a"), (6, "b"))}
    return models | adapters


@pytest.fixture(params=KINDS)
def dtype(request):
    return request.param


def load(folders, name, dtype):
    return Engine.load(folders[name], dtype=dtype, device="cpu", config=CONFIG)


def answers(engine, adapter=None):
    """Tokens and versions of the greedy answer, which must be of one version."""
    found = engine.generate([Request("r", PROMPT, GREEDY, adapter)])[0]
    assert len(set(found.weight_versions)) == 1
    assert len(found.weight_versions) == 24
    return found.token_ids, found.weight_versions[0], found.usage.cached_tokens


def with_loop(engine, main):
    loop = EngineLoop(engine)
    loop.start()
    try:
        return asyncio.run(main(loop))
    finally:
        loop.stop()
        engine.check_integrity()


def brake(engine):
    """Steps wait for this event."""
    go, step = threading.Event(), engine.step
    go.set()
    engine.step = lambda: (go.wait(), step())[1]
    return go


async def during_a_step(go, loop, change):
    """Begin ``change`` and let steps go on only when it has reached the engine's thread."""
    go.clear()
    await asyncio.sleep(0.02)
    task = asyncio.create_task(change)
    while not loop._commands:
        await asyncio.sleep(0.001)
    go.set()
    return task


async def collect(stream):
    outputs = [output async for output in stream]
    tokens = sum((output.token_ids for output in outputs), ())
    return tokens, sum((output.weight_versions for output in outputs), ()), outputs[-1]


def test_new_weights_speak_at_once_and_share_nothing_with_the_old(folders, dtype):
    engine = load(folders, "old", dtype)
    before, version, _ = answers(engine)
    assert version == 0
    assert answers(engine)[2] == 32
    assert engine.install_weights(engine.read_weights(folders["new"]), abort=False) == []
    after, version, cached = answers(engine)
    assert (version, cached) == (1, 0)
    assert after == answers(load(folders, "new", dtype))[0] != before
    engine.install_weights(engine.read_weights(folders["old"]), abort=False)
    assert answers(engine) == (before, 2, 0)
    engine.check_integrity()


@pytest.mark.parametrize("mode", ["abort", "wait", "keep"])
def test_what_runs_is_aborted_finished_or_goes_on(folders, dtype, mode):
    old, new = (answers(load(folders, name, dtype))[0] for name in ("old", "new"))
    engine = load(folders, "old", dtype)

    go = brake(engine)

    async def main(loop):
        running = [loop.submit(Request(f"r{i}", PROMPT, LONG)) for i in range(3)]
        firsts = [await anext(stream) for stream in running]
        update = await during_a_step(go, loop, loop.update_weights(str(folders["new"]), mode=mode))
        finished = await asyncio.gather(*(collect(stream) for stream in running))
        assert await update == 1
        late, versions, _ = await collect(loop.submit(Request("late", PROMPT, GREEDY)))
        assert (late, set(versions)) == (new, {1})
        return [
            (first.token_ids + tokens, first.weight_versions + versions, last)
            for first, (tokens, versions, last) in zip(firsts, finished, strict=True)
        ]

    for tokens, versions, last in with_loop(engine, main):
        assert tokens[: versions.count(0)][:24] == old[: versions.count(0)]
        assert list(versions) == sorted(versions)
        if mode == "abort":
            assert last.finish_reason == "abort"
            assert set(versions) == {0} and len(versions) == last.usage.completion_tokens < 100
        else:
            assert last.finish_reason == "length"
            assert set(versions) == ({0} if mode == "wait" else {0, 1})
            assert len(versions) == 100


def test_requests_that_come_while_an_update_waits_get_the_new_weights(folders):
    engine = load(folders, "old", "float32")
    new = answers(load(folders, "new", "float32"))[0]
    go = brake(engine)

    async def main(loop):
        running = loop.submit(Request("running", PROMPT, LONG))
        await anext(running)
        update = await during_a_step(go, loop, loop.update_weights(str(folders["new"]), mode="wait"))
        queued = loop.submit(Request("queued", PROMPT, GREEDY))
        left = loop.submit(Request("left", PROMPT, GREEDY))
        await left.aclose()
        _, old_versions, _ = await collect(running)
        tokens, versions, _ = await collect(queued)
        await update
        assert set(old_versions) == {0}
        assert (tokens, set(versions)) == (new, {1})

    with_loop(engine, main)
    assert engine.answers == 2, "nothing was computed for the one that left"


@pytest.mark.parametrize("mode", ["abort", "wait", "keep"])
def test_an_adapter_is_replaced_under_its_name(folders, dtype, mode):
    engine = load(folders, "old", dtype)
    engine.load_adapter("mine", folders["a"])
    first = answers(engine, "mine")
    base = answers(engine)
    with pytest.raises(FwError, match="other weights"):
        engine.load_adapter("mine", folders["b"])
    other = load(folders, "old", dtype)
    other.load_adapter("mine", folders["b"])
    second = answers(other, "mine")[0]
    go = brake(engine)

    async def main(loop):
        running = loop.submit(Request("running", PROMPT, LONG, "mine"))
        beside = loop.submit(Request("beside", PROMPT, LONG))
        await anext(running), await anext(beside)
        change = loop.load_adapter("mine", str(folders["b"]), mode=mode)
        version = await (await during_a_step(go, loop, change))
        late = await collect(loop.submit(Request("late", PROMPT, GREEDY, "mine")))
        return version, late, await collect(running), await collect(beside)

    version, late, running, beside = with_loop(engine, main)
    assert (late[0], set(late[1])) == (second, {version})
    assert version > first[1] > base[1] == 0
    assert set(beside[1]) == {0} and beside[2].finish_reason == "length"
    wanted = {"abort": {first[1]}, "wait": {first[1]}, "keep": {first[1], version}}[mode]
    assert set(running[1]) == wanted
    assert running[2].finish_reason == ("abort" if mode == "abort" else "length")
    assert answers(engine, "mine")[:2] == (second, version)
    assert answers(engine)[0] == base[0]


def test_what_cannot_take_the_place_is_refused_and_nothing_changes(folders, tmp_path):
    engine = load(folders, "old", "float32")
    before = answers(engine)[0]
    narrow = tiny_model(tmp_path / "narrow", **{**PACKABLE, "intermediate_size": 64})
    with pytest.raises(FwError, match="its ffn_size is 64, not 96") as caught:
        engine.read_weights(narrow)
    assert caught.value.code == "failed_precondition"
    with pytest.raises(FwError) as caught:
        engine.read_weights(tmp_path / "nowhere")
    assert caught.value.code == "not_found"
    assert answers(engine)[:2] == (before, 0)


def test_preempted_requests_go_on_with_the_new_weights(folders):
    model = load_model(folders["old"], dtype=torch.float32)
    page = 2 * 2 * 32 * 4 * 4
    engine = Engine(model, None, EngineConfig(page_size=4, kv_bytes=24 * page, max_running=6, max_batched_tokens=32))
    for i in range(6):
        engine.add(Request(f"r{i}", PROMPT[: 10 + i], GREEDY))
    seen = {}
    for step in range(10_000):
        if not engine.has_work:
            break
        if step == 20:
            engine.install_weights(engine.read_weights(folders["new"]), abort=False)
        for output in engine.step():
            seen.setdefault(output.request_id, []).extend(output.weight_versions)
        engine.check_integrity()
    assert engine.stats.preemptions > 0
    assert all(len(versions) == 24 and versions == sorted(versions) for versions in seen.values())
    assert engine.stats.kv_usage == 0

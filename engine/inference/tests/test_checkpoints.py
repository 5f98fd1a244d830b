"""Prefixes with recurrent states: a hit resumes in the state of exactly its prefix, and no slot is lost."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from engine.inference import checkpoints as checkpoints_module
from engine.inference import prefix as prefix_module
from engine.inference.checkpoints import CheckpointIndex
from engine.inference.pages import PagePool
from engine.inference.prefix import root_key
from engine.inference.scheduler import Scheduler
from engine.inference.tests.test_scheduler import SchedulerMachine, Simulation


class RecurrentSimulation(Simulation):
    """A ``Simulation`` with states that remember the prefix they were computed from."""

    def __init__(self, pages=8, page_size=2, max_running=4, budget=5, prefix_cache=True, slots=8, interval=2):
        super().__init__(pages, page_size, max_running, budget, prefix_cache)
        self.prefix = CheckpointIndex(
            PagePool(pages), PagePool(slots), page_size, interval=interval, enabled=prefix_cache
        )
        self.scheduler = Scheduler(self.prefix, max_running=max_running, max_batched_tokens=budget)
        self.states = {}

    def _before(self, plan):
        for source, target in plan.restores:
            self.states[target] = self.states[source]

    def _read(self, item):
        super()._read(item)
        sequence = item.sequence
        chain, end = sequence.chain, item.start + item.count
        if item.start:
            assert self.states[chain.slot] == self._prefix(sequence, item.start - 1)
        for save in chain.saves:
            assert item.start < save.position <= end
            assert save.position % self.page_size == 0
            self.states[save.slot] = self._prefix(sequence, save.position - 1)
        self.states[chain.slot] = self._prefix(sequence, end - 1)

    def drain(self):
        super().drain()
        assert self.prefix.states.free == self.prefix.states.total


class CheckpointMachine(SchedulerMachine):
    """Random arrivals, cancels and steps, with so few slots that checkpoints come and go."""

    @initialize(
        pages=st.integers(2, 12),
        page_size=st.integers(1, 4),
        max_running=st.integers(1, 4),
        more=st.integers(0, 6),
        prefix_cache=st.booleans(),
        slots=st.integers(1, 9),
        interval=st.integers(1, 3),
    )
    def start(self, pages, page_size, max_running, more, prefix_cache, slots, interval):
        self.sim = RecurrentSimulation(pages, page_size, max_running, max_running + more, prefix_cache, slots, interval)

    @rule()
    def distrust(self):
        self.sim.scheduler.forget_prefixes()


CheckpointMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestCheckpoints = CheckpointMachine.TestCase


def simulation(**changes):
    return RecurrentSimulation(**{"pages": 60, "page_size": 4, "budget": 64, "slots": 12, "interval": 100, **changes})


def test_the_same_prompt_again_computes_its_last_page():
    sim = simulation()
    sim.add(range(41), 2)
    sim.drain_requests()
    again = sim.add(range(41), 2)
    sim.step()
    assert again.cached == 40
    sim.drain()


def test_the_next_turn_resumes_in_the_answer_before_it():
    sim = simulation()
    first = sim.add(range(30), 15)
    sim.drain_requests()
    turn = sim.add([*first.tokens.tolist(), 7, 7, 7], 2)
    sim.step()
    assert turn.cached == 44
    assert sim.prefix.checkpoints == 3
    sim.drain()


def test_a_common_prefix_is_a_checkpoint_from_the_second_request_on():
    sim = simulation()
    cached = []
    for i in range(4):
        cached.append(sim.add([*range(20), *[90 + i] * 10], 1))
        sim.drain_requests()
    assert [sequence.cached for sequence in cached] == [0, 0, 20, 20]
    sim.drain()


def test_regular_checkpoints_serve_what_no_rule_foresaw():
    sim = simulation(interval=2)
    sim.add(range(60), 1)
    sim.drain_requests()
    other = sim.add([*range(30), 1, 1, 1], 1)
    sim.step()
    assert other.cached == 24
    sim.drain()


def test_a_miss_for_want_of_a_state_says_so():
    sim = simulation()
    sim.add(range(60), 1)
    sim.drain_requests()
    content = np.array([*range(30), 1, 1, 1], np.int32)
    found = sim.prefix.match(content, root_key(0))
    assert (len(found.pages), found.chain.indexed_pages, found.stopped) == (0, 7, "no_state")
    other = sim.prefix.match(content, root_key(1))
    assert (other.chain.indexed_pages, other.stopped) == (0, "first_seen")
    sim.drain()


def test_a_prefix_computed_twice_at_once_is_kept_once():
    sim = simulation(budget=128)
    both = [sim.add(range(33), 6) for _ in range(2)]
    sim.step()
    assert list(both[0].pages[:8]) == list(both[1].pages[:8])
    assert both[0].chain.length == both[1].chain.length == 8
    sim.drain()


def test_a_passing_state_that_another_has_used_stays():
    sim = simulation()
    first = sim.add(range(8), 9)
    while first.known < 13:
        sim.step()
    sim.step()
    assert sim.prefix.checkpoints == 2
    other = sim.add([*first.tokens[:12].tolist(), 5, 5], 1)
    sim.step()
    assert other.cached == 12
    while first.id in sim.live:
        sim.step()
    assert sim.prefix.checkpoints == 3
    sim.drain()


def test_one_slot_is_enough_and_serves_one_after_another():
    sim = simulation(slots=1)
    for i in range(3):
        sim.add([i] * 9, 3)
    sim.step()
    assert len(sim.scheduler.running) == 1
    sim.drain()


def test_a_colliding_hash_is_not_a_hit(monkeypatch):
    for module in (checkpoints_module, prefix_module):
        monkeypatch.setattr(module, "page_key", lambda parent, content: b"x" * 16)
    sim = simulation()
    for i in range(3):
        sim.add([i] * 20, 9)
        sim.step()
    sim.drain()


def test_a_lost_slot_is_found():
    sim = simulation()
    sim.add(range(20), 5)
    sim.step()
    sim.check()
    lost = sim.prefix.states.take()
    with pytest.raises(RuntimeError, match=f"{lost}: 1 references, but 0 holders"):
        sim.check()


@pytest.mark.parametrize("recurrent", [False, True])
def test_nothing_leaks_after_ten_thousand_random_events(recurrent):
    """Arrivals, cancels and steps over pools so small that preemption and eviction never stop."""
    sizes = {"pages": 32, "page_size": 4, "max_running": 8, "budget": 24}
    sim = RecurrentSimulation(**sizes, slots=20, interval=2) if recurrent else Simulation(**sizes)
    choose = random.Random(7)
    prefixes = [[choose.randrange(3) for _ in range(choose.randrange(4, 60))] for _ in range(12)]
    seen = Counter()
    for _ in range(10_000):
        event = choose.choices(["arrive", "cancel", "step"], [3, 1, 6])[0]
        seen[event] += 1
        if event == "arrive" and len(sim.live) < 24:
            prefix = choose.choice(prefixes)
            tail = [choose.randrange(3) for _ in range(choose.randrange(1, 20))]
            sim.add([*prefix[: choose.randrange(len(prefix))], *tail], choose.randrange(1, 24), choose.randrange(2))
        elif event == "cancel" and sim.live:
            sim.scheduler.remove(sim.live.pop(choose.choice(list(sim.live))))
        elif sim.live:
            sim.step()
    assert sim.scheduler.preemptions > 50
    assert sim.prefix.hits > 500
    assert min(seen.values()) > 500
    sim.drain()


def test_a_checkpoint_may_give_way_in_the_step_that_resumes_from_it():
    sim = simulation(slots=3)
    for i in range(2):
        sim.add([i] * 9, 1)
        sim.drain_requests()
    both = [sim.add([*[i] * 8, 5, 5], 1) for i in range(2)]
    sim.step()
    assert [sequence.cached for sequence in both] == [8, 8]
    sim.drain()

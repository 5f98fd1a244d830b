"""Steps, passes and shared prefixes, as properties."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from engine.training.examples import Example
from engine.training.packing import MIN_SHARED_PREFIX, epoch_order, plan_lanes, plan_passes, plan_steps, shared_prefix
from engine.training.schedule import learning_rate

lengths_of_rows = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@given(lengths_of_rows, st.integers(1, 500), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_sees_every_row_once_in_steps_that_are_full(lengths, batch_size, epochs, seed):
    steps = plan_steps(lengths, batch_size=batch_size, epochs=epochs, seed=seed)
    assert steps == plan_steps(lengths, batch_size=batch_size, epochs=epochs, seed=seed)
    for epoch in range(epochs):
        mine = [step for step in steps if step.epoch == epoch]
        assert [row for step in mine for row in step.rows] == epoch_order(len(lengths), seed, epoch)
        for step, following in zip(mine, [*mine[1:], None], strict=True):
            size = sum(lengths[row] for row in step.rows)
            assert size <= batch_size or len(step.rows) == 1
            assert following is None or size + lengths[following.rows[0]] > batch_size


@given(st.integers(1, 60), st.integers(0, 3), st.integers(0, 3))
def test_the_order_is_a_permutation_that_changes_with_epoch_and_seed(rows, seed, epoch):
    order = epoch_order(rows, seed, epoch)
    assert sorted(order) == list(range(rows))
    if rows > 20:
        assert order != epoch_order(rows, seed, epoch + 1)
        assert order != epoch_order(rows, seed + 1, epoch)


@given(lengths_of_rows, st.integers(1, 500), st.integers(1, 4))
def test_passes_cut_a_step_evenly_without_losing_or_splitting_a_row(lengths, limit, lanes):
    passes = plan_passes(range(len(lengths)), lengths, lanes=lanes, pass_tokens=limit)
    assert [row for rows in passes for row in rows] == list(range(len(lengths)))
    needed = -(-sum(lengths) // limit)
    share = sum(lengths) / (-(-needed // lanes) * lanes)
    assert share <= limit
    assert all(sum(lengths[row] for row in rows) < share + max(lengths[row] for row in rows) for rows in passes)


@given(st.integers(1, 128), st.integers(16, 100_000))
def test_lanes_are_never_more_than_cores_or_than_passes_worth_having(threads, batch_size):
    lanes = plan_lanes(threads, batch_size)
    assert 1 <= lanes <= threads
    assert lanes == 1 or batch_size / lanes >= 512


@st.composite
def row_with_common_start(draw, start):
    tail = draw(st.lists(st.integers(0, 3), min_size=2, max_size=20))
    tokens = [*start, *tail]
    trained = draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)).filter(any))
    return Example(1, tuple(tokens), (False, *trained[1:]))


@given(st.data())
def test_the_shared_prefix_is_common_and_ends_before_anything_that_a_row_predicts(data):
    start = data.draw(st.lists(st.integers(0, 3), max_size=25))
    rows = data.draw(
        st.lists(row_with_common_start(start).filter(lambda row: row.trained_tokens), min_size=2, max_size=5)
    )
    prefix = shared_prefix(rows)
    assert len({row.tokens[:prefix] for row in rows}) == 1
    assert prefix == 0 or prefix >= MIN_SHARED_PREFIX
    for row in rows:
        assert all(place - 1 >= prefix for place, trained in enumerate(row.trained) if trained)
    longest = min(row.first_trained for row in rows) - 1
    could_share = longest >= MIN_SHARED_PREFIX and len({row.tokens[:MIN_SHARED_PREFIX] for row in rows}) == 1
    assert could_share == (prefix > 0)


def test_a_single_row_shares_nothing():
    assert shared_prefix([Example(1, tuple(range(50)), (False,) * 49 + (True,))]) == 0


@given(st.integers(1, 200), st.integers(0, 250))
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(steps, warmup):
    rates = [learning_rate(step, steps, peak=0.5, warmup_steps=warmup) for step in range(steps)]
    top = min(warmup, steps)
    assert all(0 < rate <= 0.5 for rate in rates)
    assert all(before < after for before, after in pairwise(rates[:top]))
    assert all(before > after for before, after in pairwise(rates[top:]))
    if warmup < steps:
        assert rates[top] == 0.5

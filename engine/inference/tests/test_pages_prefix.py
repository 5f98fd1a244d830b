"""Pages and prefix index: nothing leaks, nothing is shared that differs."""

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.inference import prefix as prefix_module
from engine.inference.pages import PagePool
from engine.inference.prefix import PrefixIndex
from fw_sdk.types import FwError


def tokens(*values):
    return np.array(values, np.int32)


@given(st.lists(st.tuples(st.sampled_from(["take", "hold", "release"]), st.integers(0, 99)), max_size=80))
def test_pool_counts_every_reference(operations):
    pool, held = PagePool(5), []
    for kind, pick in operations:
        if kind == "take" and pool.free:
            held.append(pool.take())
        elif kind == "hold" and held:
            page = held[pick % len(held)]
            pool.hold(page)
            held.append(page)
        elif kind == "release" and held:
            pool.release(held.pop(pick % len(held)))
        pool.check_integrity(held)
        assert pool.free == 5 - len(set(held))


def test_pool_refuses_what_would_corrupt_it():
    pool = PagePool(2)
    page = pool.take()
    pool.release(page)
    with pytest.raises(RuntimeError, match="released more often"):
        pool.release(page)
    with pytest.raises(RuntimeError, match="cannot be held"):
        pool.hold(page)
    with pytest.raises(RuntimeError, match="holders"):
        pool.check_integrity([0])
    with pytest.raises(FwError):
        PagePool(0)


def register(index, content, adapter=0):
    """What the scheduler does for one sequence: match, take the rest, register; returns its pages."""
    pages, chain = index.match(content, adapter)
    pages.extend(index.take(-(-len(content) // index.page_size) - len(pages)))
    index.register(content, pages, chain)
    return pages


def test_a_known_beginning_is_found_by_content_and_adapter():
    index = PrefixIndex(PagePool(16), 4)
    first = register(index, tokens(*range(12)))
    index.release(first)
    assert index.used == 0
    again, chain = index.match(tokens(*range(10), 99, 99), 0)
    assert list(again) == list(first[:2])
    assert chain.length == 2
    assert list(index.match(tokens(*range(12)), 1)[0]) == []
    assert list(index.match(tokens(9, *range(1, 12)), 0)[0]) == []


def test_a_colliding_hash_is_not_a_hit(monkeypatch):
    monkeypatch.setattr(prefix_module, "_key", lambda parent, content: b"x" * 16)
    index = PrefixIndex(PagePool(16), 4)
    index.release(register(index, tokens(1, 2, 3, 4)))
    assert len(index.match(tokens(1, 2, 3, 4), 0)[0]) == 1
    assert len(index.match(tokens(1, 2, 3, 5), 0)[0]) == 0
    assert len(index.match(tokens(1, 2, 3, 4), 7)[0]) == 0


def test_the_longest_unused_goes_first_and_children_before_parents():
    index = PrefixIndex(PagePool(4), 2)
    old = register(index, tokens(1, 1, 2, 2))
    index.release(old)
    new = register(index, tokens(3, 3, 4, 4))
    index.release(new)
    index.release(index.take(1))
    assert len(index.match(tokens(1, 1, 2, 2), 0)[0]) == 1
    assert len(index.match(tokens(3, 3, 4, 4), 0)[0]) == 2
    index.check_integrity()


def test_disabled_keeps_nothing():
    index = PrefixIndex(PagePool(4), 2, enabled=False)
    index.release(register(index, tokens(1, 1, 2, 2)))
    assert index.pool.free == 4
    assert index.match(tokens(1, 1, 2, 2), 0)[0] == array("i")


CONTENTS = st.lists(st.integers(0, 1), min_size=1, max_size=12)


@settings(max_examples=150)
@given(st.lists(st.one_of(st.tuples(st.just("start"), CONTENTS, st.integers(0, 1)), st.integers(0, 9)), max_size=40))
def test_random_sequences_share_only_equal_beginnings(operations):
    index = PrefixIndex(PagePool(12), 2)
    stored: dict[int, tuple] = {}
    live = []
    for operation in operations:
        if isinstance(operation, int):
            if live:
                index.release(live.pop(operation % len(live)))
        else:
            _, content, adapter = operation
            content = tokens(*content)
            pages, chain = index.match(content[:-1], adapter)
            for place, page in enumerate(pages):
                assert stored[page] == (adapter, *content[: 2 * place + 2])
            missing = -(-len(content) // 2) - len(pages)
            if index.available < missing:
                index.release(pages)
            else:
                pages.extend(index.take(missing))
                index.register(content, pages, chain)
                stored.update({page: (adapter, *content[: 2 * i + 2]) for i, page in enumerate(pages)})
                live.append(pages)
        index.check_integrity()
        index.pool.check_integrity([*(page for pages in live for page in pages), *index.known_pages()])
        assert index.used == len({page for pages in live for page in pages})
    for pages in live:
        index.release(pages)
    index.clear()
    assert index.pool.free == 12

"""Pages and prefix index: nothing leaks, nothing is shared that differs."""

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.inference import prefix as prefix_module
from engine.inference.pages import PagePool
from engine.inference.prefix import PrefixIndex, root_key
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


BASE, OTHER = root_key(0), root_key(1)


def register(index, content, root=BASE):
    """What the scheduler does for one sequence: match, take the rest, register; returns what it holds."""
    found = index.match(content, root)
    found.pages.extend(index.take(-(-len(content) // index.page_size) - len(found.pages)))
    index.register(content, found.pages, found.chain)
    return found.pages, found.chain


def test_a_known_prefix_is_found_by_content_and_adapter():
    index = PrefixIndex(PagePool(16), 4)
    first = register(index, tokens(*range(12)))
    index.release(*first)
    assert index.used == 0
    again = index.match(tokens(*range(10), 99, 99), BASE)
    assert list(again.pages) == list(first[0][:2])
    assert again.chain.length == 2
    assert list(index.match(tokens(*range(12)), OTHER).pages) == []
    assert list(index.match(tokens(*range(12)), root_key(0, "another tenant")).pages) == []
    assert list(index.match(tokens(9, *range(1, 12)), BASE).pages) == []


def test_a_miss_has_a_reason():
    index = PrefixIndex(PagePool(4), 2)
    assert index.match(tokens(1, 1, 2, 2), BASE).stopped == "first_seen"
    index.release(*register(index, tokens(1, 1, 2, 2)))
    whole = index.match(tokens(1, 1, 2, 2, 3), BASE)
    assert whole.stopped is None
    index.release(whole.pages, whole.chain)
    taken = index.take(4)
    assert index.match(tokens(1, 1, 2, 2), BASE).stopped == "evicted"
    index.release(taken, whole.chain)
    assert PrefixIndex(PagePool(4), 2, enabled=False).match(tokens(1, 1), BASE).stopped == "disabled"


def test_a_colliding_hash_is_not_a_hit(monkeypatch):
    monkeypatch.setattr(prefix_module, "page_key", lambda parent, content: b"x" * 16)
    index = PrefixIndex(PagePool(16), 4)
    index.release(*register(index, tokens(1, 2, 3, 4)))
    assert len(index.match(tokens(1, 2, 3, 4), BASE).pages) == 1
    assert len(index.match(tokens(1, 2, 3, 5), BASE).pages) == 0
    assert len(index.match(tokens(1, 2, 3, 4), OTHER).pages) == 0


def test_the_longest_unused_goes_first_and_children_before_parents():
    index = PrefixIndex(PagePool(4), 2)
    old = register(index, tokens(1, 1, 2, 2))
    index.release(*old)
    new = register(index, tokens(3, 3, 4, 4))
    index.release(*new)
    index.release(index.take(1), new[1])
    assert len(index.match(tokens(1, 1, 2, 2), BASE).pages) == 1
    assert len(index.match(tokens(3, 3, 4, 4), BASE).pages) == 2
    index.check_integrity()


def test_disabled_keeps_nothing():
    index = PrefixIndex(PagePool(4), 2, enabled=False)
    index.release(*register(index, tokens(1, 1, 2, 2)))
    assert index.pool.free == 4
    assert index.match(tokens(1, 1, 2, 2), BASE).pages == array("i")


CONTENTS = st.lists(st.integers(0, 1), min_size=1, max_size=12)


@settings(max_examples=150)
@given(st.lists(st.one_of(st.tuples(st.just("start"), CONTENTS, st.integers(0, 1)), st.integers(0, 9)), max_size=40))
def test_random_sequences_share_only_equal_prefixes(operations):
    index = PrefixIndex(PagePool(12), 2)
    stored: dict[int, tuple] = {}
    live = []
    for operation in operations:
        if isinstance(operation, int):
            if live:
                index.release(*live.pop(operation % len(live)))
        else:
            _, content, adapter = operation
            content = tokens(*content)
            found = index.match(content[:-1], root_key(adapter))
            pages, chain = found.pages, found.chain
            for place, page in enumerate(pages):
                assert stored[page] == (adapter, *content[: 2 * place + 2])
            missing = -(-len(content) // 2) - len(pages)
            if index.available < missing:
                index.release(pages, chain)
            else:
                pages.extend(index.take(missing))
                index.register(content, pages, chain)
                stored.update({page: (adapter, *content[: 2 * i + 2]) for i, page in enumerate(pages)})
                live.append((pages, chain))
        index.check_integrity()
        index.pool.check_integrity([*(page for pages, _ in live for page in pages), *index.known_pages()])
        assert index.used == len({page for pages, _ in live for page in pages})
    for held in live:
        index.release(*held)
    index.clear()
    assert index.pool.free == 12

"""Against float64, with pages scattered over the cache and garbage in every slot that nobody owns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention_spec import AttentionSpec
from kernels.paged_attention import new_pages, paged_attention, plan_batch, write_pages
from kernels.paged_attention.reference import paged_attention_reference

SEQUENCES = st.lists(
    st.integers(1, 70).flatmap(lambda context: st.tuples(st.just(context), st.integers(1, context))),
    min_size=1,
    max_size=7,
)


def scattered(contexts, page_size, generator):
    """Page tables with pages in random order, and the number of pages."""
    counts = [-(-context // page_size) for context in contexts]
    order = torch.randperm(sum(counts) + 3, generator=generator).tolist()
    tables = []
    for count in counts:
        tables.append(order[:count])
        order = order[count:]
    return tables, sum(counts) + 3


def run(contexts, queries, *, heads=6, kv_heads=2, width=8, page_size=4, dtype=torch.float32, seed=0, spec=None):
    generator = torch.Generator().manual_seed(seed)
    tables, count = scattered(contexts, page_size, generator)
    pages = new_pages(1, count, page_size, kv_heads, width, dtype)[0]
    pages.copy_(torch.randn(pages.shape, generator=generator))
    plan = plan_batch(queries, contexts, tables, page_size)
    tokens = sum(queries)
    query, key, value = (
        torch.randn(tokens, number, width, generator=generator).to(dtype) for number in (heads, kv_heads, kv_heads)
    )
    before = pages.clone()
    write_pages(pages, key, value, plan)
    changed = (pages != before).flatten(2, 3).any(-1).any(0).any(0).nonzero().flatten()
    assert sorted(changed.tolist()) == sorted(plan.slots.tolist())
    out = paged_attention(query, pages, plan, spec)
    expected = paged_attention_reference(query, pages, queries, contexts, tables, spec)
    return out, expected, plan, pages, query


@settings(max_examples=30, deadline=None)
@given(SEQUENCES, st.sampled_from([(6, 2), (4, 4), (3, 1)]), st.integers(1, 9))
def test_equals_the_reference(sequences, heads, page_size):
    contexts, queries = [context for context, _ in sequences], [length for _, length in sequences]
    out, expected, plan, _, _ = run(contexts, queries, heads=heads[0], kv_heads=heads[1], page_size=page_size)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    positions = [p for c, q in sequences for p in range(c - q, c)]
    assert plan.positions.tolist() == positions


@settings(max_examples=40, deadline=None)
@given(SEQUENCES, st.integers(1, 9), st.one_of(st.none(), st.integers(1, 40)), st.booleans())
def test_windows_and_sinks_equal_the_reference(sequences, page_size, window, sinks):
    contexts, queries = [context for context, _ in sequences], [length for _, length in sequences]
    spec = AttentionSpec(0.4, window, torch.linspace(-1, 2, 6) if sinks else None)
    out, expected, *_ = run(contexts, queries, page_size=page_size, spec=spec)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_long_windowed_chunk_equals_the_reference():
    for window in (3, 100):
        spec = AttentionSpec(0.3, window, torch.linspace(-1, 2, 2))
        out, expected, *_ = run([600, 340], [590, 1], heads=2, kv_heads=1, spec=spec)
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", [None, AttentionSpec(0.1, 9, torch.linspace(-1, 2, 6))])
def test_bfloat16_stays_close(spec):
    out, expected, *_ = run([40, 7, 33], [1, 7, 12], dtype=torch.bfloat16, width=64, page_size=16, spec=spec)
    torch.testing.assert_close(out.double(), expected, atol=3e-2, rtol=3e-2)


def test_a_long_context_does_not_pad_the_short_ones():
    """Decoding rows are grouped by length, in few groups; results stay in batch order."""
    contexts = [300, 5, 280, 6, 9, 900]
    out, expected, plan, *_ = run(contexts, [1] * 6)
    assert 1 < len(plan.decode) <= 4
    padded = sum(group.mask.numel() for group in plan.decode)
    assert padded < 2 * sum(contexts)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_operators_do_not_grow_with_decoding_requests():
    def operators(requests):
        _, _, plan, pages, query = run([9] * requests, [1] * requests)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            paged_attention(query, pages, plan)
        return len(profile.events())

    assert operators(2) == operators(30)


def test_chunks_and_single_steps_agree():
    """A prompt in one piece, in chunks, or token by token leaves the same pages and the same answers."""
    generator = torch.Generator().manual_seed(3)
    tokens, page_size = 23, 4
    query, key, value = (torch.randn(tokens, heads, 8, generator=generator) for heads in (4, 2, 2))
    answers = []
    for sizes in ([23], [10, 13], [1] * 23):
        pages, table, done, out = new_pages(1, 6, page_size, 2, 8, torch.float32)[0], [3, 1, 0, 5, 2, 4], 0, []
        for size in sizes:
            part = slice(done, done + size)
            done += size
            plan = plan_batch([size], [done], [table], page_size)
            write_pages(pages, key[part], value[part], plan)
            out.append(paged_attention(query[part], pages, plan))
        answers.append(torch.cat(out))
    torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(answers[2], answers[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_scale(scale):
    _, _, plan, pages, query = run([11, 6], [1, 6])
    tables = [[0, 1, 2], [3, 4]]
    plan = plan_batch([1, 6], [11, 6], tables, 4)
    spec = AttentionSpec(scale)
    expected = paged_attention_reference(query, pages, [1, 6], [11, 6], tables, spec)
    torch.testing.assert_close(paged_attention(query, pages, plan, spec).double(), expected, atol=1e-5, rtol=1e-5)

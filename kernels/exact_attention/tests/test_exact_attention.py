"""Exact attention is attention, and cutting a sequence into steps and pages in another way changes no bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import native
from kernels.attention_spec import AttentionSpec
from kernels.exact_attention import exact_attention, plan_spans
from kernels.exact_attention.reference import exact_attention_reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler here")
VARIANTS = [variant.name for variant in native.usable_variants()]
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
SHAPES = [(1, 1, 16), (6, 2, 64), (4, 4, 20), (9, 3, 128), (3, 1, 256), (40, 1, 8)]
OPTIONS = [{}, {"window": 5}, {"sinks": True}, {"window": 17, "sinks": True}]


def made(tokens, heads, kv_heads, width, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((tokens, heads, width), (tokens, kv_heads, width), (tokens, kv_heads, width))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def paged(rows, size, order):
    """rows: [T, kv_heads, D] of one sequence -> a pool [kv_heads, pages, size, D] and the sequence's table in it."""
    count = -(-len(rows) // size)
    pool = torch.zeros(rows.shape[1], count + 2, size, rows.shape[2], dtype=rows.dtype)
    table = [page for page in order if page < count + 2][:count]
    for position in range(len(rows)):
        pool[:, table[position // size], position % size] = rows[position]
    return pool, table


@pytest.mark.parametrize(
    ("shape", "variant"),
    [*((shape, VARIANTS[0]) for shape in SHAPES), *((SHAPES[1], variant) for variant in VARIANTS[1:])],
    ids=str,
)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_attention(shape, variant, dtype, options):
    heads, kv_heads, width = shape
    query, key, value = made(90, heads, kv_heads, width, dtype)
    keys, table = paged(key, 16, [3, 0, 6, 2, 1, 5, 4, 7])
    values, _ = paged(value, 16, [3, 0, 6, 2, 1, 5, 4, 7])
    spec = AttentionSpec(width**-0.5, options.get("window"), torch.randn(heads) if "sinks" in options else None)
    batches = [([1, 33], [90, 50]), ([90], [90]), ([1, 1, 1], [1, 16, 17])]
    for lengths, contexts in batches:
        rows = query[: sum(lengths)]
        tables = [table] * len(lengths)
        truth = exact_attention_reference(rows, keys, values, lengths, contexts, tables, spec)
        spans = plan_spans(lengths, contexts, tables)
        got = exact_attention(rows, keys, values, spans, spec, variant)
        assert (got.double() - truth).norm() <= BOUNDS[dtype] * truth.norm()


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    variant=st.sampled_from(VARIANTS),
    window=st.sampled_from([None, 1, 7, 30]),
)
def test_a_row_has_the_same_bits_in_any_chunk_and_on_any_pages(data, shape, dtype, variant, window):
    heads, kv_heads, width = shape
    length = data.draw(st.integers(1, 120), "length")
    query, key, value = made(length, heads, kv_heads, width, dtype)
    one = [rows.transpose(0, 1).unsqueeze(1) for rows in (key, value)]  # the whole sequence is one page
    spec = AttentionSpec(0.3, window, torch.ones(heads))
    plain = exact_attention(query, *one, plan_spans([length], [length], [[0]]), spec, variant)
    size = data.draw(st.sampled_from([1, 4, 16, 64]), "page size")
    order = data.draw(st.permutations(range(-(-length // size) + 2)), "pages")
    keys, table = paged(key, size, order)
    values, _ = paged(value, size, order)
    other, other_key, _ = made(120, heads, kv_heads, width, dtype, seed=1)
    other_pages, other_table = paged(other_key, size, range(200))
    both = torch.cat((keys, other_pages), 1), torch.cat((values, other_pages), 1)
    other_table = [page + keys.shape[1] for page in other_table]
    done = 0
    while done < length:
        count = data.draw(st.integers(1, length - done), "chunk")
        beside = data.draw(st.integers(1, 40), "beside")
        rows = torch.cat((other[:beside], query[done : done + count]))
        spans = plan_spans([beside, count], [90, done + count], [other_table, table])
        got = exact_attention(rows, *both, spans, spec, variant)
        assert torch.equal(got[beside:], plain[done : done + count])
        done += count


def test_queries_may_be_a_view_and_pages_behind_the_window_are_not_read():
    query, key, value = made(40, 4, 2, 32, torch.float32)
    keys, table = paged(key, 4, range(12))
    values, _ = paged(value, 4, range(12))
    spans = plan_spans([1], [40], [table])
    spec = AttentionSpec(1.0, window=9)
    wanted = exact_attention(query[-1:], keys, values, spans, spec)
    wide = torch.cat((query, torch.randn(40, 2, 32)), 1)[-1:, :4]
    for pages in (keys, values):
        pages[:, table[:7]] = float("nan")
    assert torch.equal(exact_attention(wide, keys, values, spans, spec), wanted)

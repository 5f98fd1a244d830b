"""The Triton kernels: against float64, wrong arguments by name, and a token's bits in any batch, chunk or step."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.arguments import ArgumentError
from kernels.attention_spec import AttentionSpec
from kernels.numerics import numerics
from kernels.paged_attention import gpu as launch
from kernels.paged_attention import new_pages, paged_attention, plan_batch, plan_decode, write_pages
from kernels.paged_attention.reference import paged_attention_reference, paged_rows_reference
from kernels.registry import preferring, spec
from kernels.spec import Maker
from kernels.testing.check import assert_close, check, problems
from kernels.tuned import forced

#: Tiles so small that short contexts have several blocks, splits and chunks.
DECODE = {"SPLIT": 64, "BLOCK_M": 16, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}
CHUNKS = {"SPLIT": 0, "BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}
SEQUENCES = st.lists(
    st.integers(1, 150).flatmap(lambda context: st.tuples(st.just(context), st.integers(1, min(context, 40)))),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize(("spec", "case"), problems("paged_attention"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


def batch(device, contexts, *, heads=(4, 2), width=32, page_size=16, dtype=torch.bfloat16, poison=True):
    """Pages in random order with NaN wherever no sequence has a token, and the sequences' tables."""
    maker = Maker(device)
    blocks = [-(-context // page_size) for context in contexts]
    order = maker.permutation(sum(blocks) + 2).tolist()
    tables = [[order.pop() for _ in range(count)] for count in blocks]
    pages = maker.normal(2, heads[1], sum(blocks) + 2, page_size, width, dtype=dtype)
    if poison:
        owned = torch.zeros(pages.shape[2:4], dtype=torch.bool)
        for context, table in zip(contexts, tables, strict=True):
            for position in range(context):
                owned[table[position // page_size], position % page_size] = True
        pages[:, :, ~owned.to(pages.device)] = torch.nan
    return pages, tables


@settings(max_examples=5, deadline=None)
@given(
    sequences=SEQUENCES,
    window=st.one_of(st.none(), st.integers(1, 100)),
    sinks=st.booleans(),
    page_size=st.sampled_from([3, 16, 64]),
)
def test_a_mixed_step_equals_the_reference(sequences, window, sinks, page_size, device):
    contexts, lengths = [context for context, _ in sequences], [length for _, length in sequences]
    pages, tables = batch(device, contexts, page_size=page_size)
    maker = Maker(device, 1)
    query, key, value = (maker.normal(sum(lengths), heads, 32) for heads in (4, 2, 2))
    how = AttentionSpec(0.2, window, torch.linspace(-1, 2, 4, device=device) if sinks else None)
    with preferring("triton"), forced("paged_decode", DECODE), forced("attend", CHUNKS):
        plan = plan_batch(lengths, contexts, tables, page_size, device)
        assert plan.tables is not None
        write_pages(pages, key, value, plan)
        ours = paged_attention(query, pages, plan, how)
    flat = pages.flatten(2, 3)[:, :, plan.slots]
    assert torch.equal(flat, torch.stack((key, value)).transpose(1, 2))
    truth = paged_attention_reference(query, pages, lengths, contexts, tables, how)
    assert_close("out", ours, truth, None, 5e-3)


@pytest.mark.parametrize(
    ("width", "window", "contexts", "tiles"),
    [(64, None, [530, 40], None), (256, None, [80, 40], None), (64, 70, [150, 40], 64)],
)
def test_under_exact_numerics_a_token_has_the_same_bits_decoded_or_in_a_chunk(width, window, contexts, tiles, device):
    """In one chunk, beside another sequence, or token by token, over several splits."""
    pages, tables = batch(device, contexts, width=width)
    query = Maker(device, 1).normal(contexts[0], 4, width)
    how = AttentionSpec(0.2, window, torch.linspace(-1, 2, 4, device=device))

    def answer(lengths, ends, rows):
        plan = plan_batch(lengths, ends, tables[: len(ends)], 16, device)
        return paged_attention(rows.contiguous(), pages, plan, how)

    with ExitStack() as stack:
        stack.enter_context(preferring("triton"))
        stack.enter_context(numerics("exact"))
        if tiles is not None:
            stack.enter_context(forced("paged_decode", {**DECODE, "SPLIT": tiles}))
            stack.enter_context(forced("attend", {**CHUNKS, "SPLIT": tiles}))
        whole = answer([40], contexts[:1], query[-40:])
        beside = answer([33, 5], contexts, torch.cat((query[-33:], query[:5])))[:33]
        assert torch.equal(beside, whole[-33:])
        for end in (contexts[0], contexts[0] - 18, contexts[0] - 39):
            row = torch.cat((query[end - 1 : end], query[:1]))
            assert torch.equal(answer([1, 1], [end, 40], row)[0], whole[end - contexts[0] - 1])


def test_a_recorded_step_serves_other_contexts(device):
    """Wider tables and sequences without tokens change no bit: their rows are zero, or not there."""
    contexts = [70, 9, 130]
    pages, tables = batch(device, contexts)
    query = Maker(device, 1).normal(5, 4, 32)
    with preferring("triton"), forced("paged_decode", DECODE):
        plan = plan_batch([1, 1, 1], contexts, tables, 16, device)
        tight = paged_attention(query[:3], pages, plan)
        found = plan.tables
        recorded = plan_decode(found.table, found.contexts, plan.slots.int(), 16)
        assert torch.equal(paged_attention(query[:3], pages, recorded), tight)
        table = torch.full((5, 20), 10**6, dtype=torch.int32, device=device)
        table[:3, : found.table.shape[1]] = found.table
        padded = replace(
            found,
            table=table,
            contexts=torch.tensor([*contexts, 0, 0], dtype=torch.int32, device=device),
            starts=torch.arange(6, dtype=torch.int32, device=device),
        )
        wide = paged_attention(query, pages, replace(plan, tokens=5, tables=padded))
    assert torch.equal(wide[:3], tight)
    assert not wide[3:].any()


def test_a_row_without_a_slot_is_not_written(device):
    maker = Maker(device)
    key, value, pages = maker.normal(3, 2, 32), maker.normal(3, 2, 32), new_pages(1, 2, 4, 2, 32, torch.bfloat16)[0]
    pages = pages.to(device)
    launch.write_pages(key, value, pages, torch.tensor([5, -1, 2], device=device))
    flat = pages.flatten(2, 3)
    assert torch.equal(flat[0, :, [5, 2]], key[[0, 2]].transpose(0, 1))
    assert flat.any(-1).sum() == 2 * 2 * 2


def test_the_logarithm_of_the_total(device):
    case = next(case for case in spec("paged_prefill").cases if case.name == "bf16")
    arguments = case.make(Maker(device))
    arguments["sinks"] = torch.linspace(-1, 2, 6, device=device)
    out, totals = launch.paged_prefill(**arguments, logsumexp=True)
    # With a value of one everywhere a row is the share of its keys: all of the softmax but the sink's part.
    arguments["pages"][1] = 1.0
    share = paged_rows_reference(**arguments)[..., 0]
    assert_close("total", totals.double(), arguments["sinks"].double() - torch.log1p(-share), None, 1e-4)
    assert torch.isfinite(out).all()


FITTING = {
    "query": torch.zeros(2, 4, 32, dtype=torch.bfloat16),
    "pages": torch.zeros(2, 2, 3, 16, 32, dtype=torch.bfloat16),
    "table": torch.zeros(2, 1, dtype=torch.int32),
    "contexts": torch.ones(2, dtype=torch.int32),
    "starts": torch.arange(3, dtype=torch.int32),
    "scale": 1.0,
}


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"query": torch.zeros(2, 4, 32, dtype=torch.float64)}, "query"),
        ({"query": torch.zeros(2, 3, 32, dtype=torch.bfloat16)}, "query"),
        ({"pages": torch.zeros(2, 2, 3, 16, 32)}, "pages"),
        ({"pages": torch.zeros(2, 2, 3, 32, 32, dtype=torch.bfloat16)[:, :, :, ::2]}, "pages"),
        ({"table": torch.zeros(2, 1, dtype=torch.int64)}, "table"),
        ({"contexts": torch.ones(3, dtype=torch.int32)}, "contexts"),
        ({"starts": torch.arange(2, dtype=torch.int32)}, "starts"),
        ({"scale": 0.0}, "scale"),
        ({"window": 0}, "window"),
        ({"sinks": torch.zeros(3)}, "sinks"),
        ({"scales": torch.ones(2, 4)}, "scales"),
        ({"out": torch.zeros(2, 4, 32)}, "out"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    arguments = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in {**FITTING, **change}.items()
    }
    for function in (launch.paged_decode, launch.paged_prefill):
        with pytest.raises(ArgumentError, match="accepted") as raised:
            function(**arguments)
        assert raised.value.argument == argument

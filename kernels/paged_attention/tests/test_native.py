"""The C kernel answers like the reference, alone and in any batch, and is not missed where it cannot be compiled."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.paged_attention import new_pages, plan_batch
from kernels.paged_attention.cpu import paged_attention
from kernels.paged_attention.native import decode
from kernels.paged_attention.reference import paged_attention_reference as truth

needs_compiler = pytest.mark.skipif(
    decode(
        torch.ones(1, 1, 2),
        new_pages(1, 1, 4, 1, 2, torch.float32)[0],
        torch.zeros(1, dtype=torch.int64),
        torch.ones(1, dtype=torch.int32),
        1.0,
    )
    is None,
    reason="no C compiler here",
)


def batch(contexts, kv_heads, group, width, page_size, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    blocks = [-(-context // page_size) for context in contexts]
    order = torch.randperm(sum(blocks), generator=generator).tolist()
    tables = [[order.pop() for _ in range(count)] for count in blocks]
    pages = new_pages(1, sum(blocks), page_size, kv_heads, width, dtype)[0]
    pages.copy_(torch.randn(pages.shape, generator=generator))
    query = torch.randn(len(contexts), kv_heads * group, width, generator=generator).to(dtype)
    return query, pages, tables


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    width=st.sampled_from([2, 6, 24, 64, 128]),
    page_size=st.sampled_from([1, 4, 16]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_it_equals_the_reference_at_odd_shapes(contexts, kv_heads, group, width, page_size, dtype):
    query, pages, tables = batch(contexts, kv_heads, group, width, page_size, dtype)
    plan = plan_batch([1] * len(contexts), contexts, tables, page_size)
    wanted = truth(query.double(), pages.double(), [1] * len(contexts), contexts, tables)
    got = paged_attention(query, pages, plan)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert got.dtype is dtype
    torch.testing.assert_close(got.double(), wanted, atol=tolerance, rtol=tolerance)


@needs_compiler
def test_a_row_has_the_same_bits_alone_and_in_a_batch():
    contexts = [33, 1, 64, 17]
    query, pages, tables = batch(contexts, 3, 3, 64, 16, torch.bfloat16)
    scale = 64**-0.5
    width = max(len(table) for table in tables)
    padded = [page for table in tables for page in table + [table[0]] * (width - len(table))]
    together = decode(query, pages, torch.tensor(padded), torch.tensor(contexts, dtype=torch.int32), scale)
    for row, (context, table) in enumerate(zip(contexts, tables, strict=True)):
        counts = torch.tensor([context], dtype=torch.int32)
        alone = decode(query[row : row + 1], pages, torch.tensor(table), counts, scale)
        assert torch.equal(alone[0], together[row])


def test_without_a_compiler_torch_serves(tmp_path):
    code = (
        "import torch\n"
        "from kernels.paged_attention.tests.test_native import batch, plan_batch, paged_attention, decode\n"
        "q, pages, tables = batch([5, 9], 2, 2, 8, 4, torch.float32)\n"
        "plan = plan_batch([1, 1], [5, 9], tables, 4)\n"
        "group = plan.decode[0]\n"
        "assert decode(q, pages, group.pages, group.contexts, 1.0) is None\n"
        "print(paged_attention(q, pages, plan).isfinite().all().item())\n"
    )
    environment = {"PATH": "", "CC": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"

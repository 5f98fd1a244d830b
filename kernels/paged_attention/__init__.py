"""Attention of a mixed batch over paged keys and values: decoding rows and prefill chunks in one call.

One layer's cache is one tensor ``pages: [2, kv_heads, page_count, page_size, head_dim]`` (keys, then values). A step is
planned once (``plan_batch``) and the plan serves every layer: ``write_pages`` stores the new keys and values (and
``turn_and_write`` turns them by their positions first), then ``paged_attention`` reads them together with what the
pages held before.

    pages = new_pages(layers, page_count, page_size, kv_heads, head_dim, dtype, device)
    plan = plan_batch(query_lengths, context_lengths, page_tables, page_size, device)
    write_pages(pages[layer], key, value, plan)
    out = paged_attention(query, pages[layer], plan)
"""

from kernels.paged_attention.op import paged_attention, turn_and_write, write_pages
from kernels.paged_attention.plan import BatchPlan, PageTables, decodes_unseen, new_pages, plan_batch, plan_decode

__all__ = [
    "BatchPlan",
    "PageTables",
    "decodes_unseen",
    "new_pages",
    "paged_attention",
    "plan_batch",
    "plan_decode",
    "turn_and_write",
    "write_pages",
]

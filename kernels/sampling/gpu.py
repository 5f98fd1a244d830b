"""Launches the Triton kernels that draw tokens: four launches, whatever the rows ask for; nothing is read back.

A row is split by its vocabulary alone, so its token and its bits do not depend on the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.arguments import require, within
from kernels.sampling.kernel import LEVELS, sample_candidates, sample_choose, sample_levels, sample_statistics
from kernels.tuned import tuned

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_VOCABULARY = 2**20


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a token per row by the rule of ``kernels.sampling.reference``.

    Args:
        logits: [n, vocabulary] f32, bf16 or f16; -inf for what is forbidden.
        temperatures: [n] f32; below 1e-5 the most likely token is taken, the first of equals.
        top_ks: [n] i32, how many tokens are kept; 0 for all.
        top_ps: [n] f64 or f32, what share of these is kept at least; 1 for all.
        min_ps: [n] f32, the least share, as a part of the largest, that is kept; 0 for all.
        seeds: [n] i64.
        positions: [n] i64, of the drawn token; with the seed it names the random number.

    Returns:
        Tokens [n] i64 and their log-probabilities [n] f32 under the row's own distribution and under that which was
        drawn from. Both are NaN in a row that holds a NaN or +inf, or nothing else than -inf.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    require("logits", logits, dtypes=DTYPES, shape=(None, None))
    rows, vocabulary = logits.shape
    within("logits' vocabulary", vocabulary, 1, MAX_VOCABULARY)
    for name, tensor, dtypes in (
        ("temperatures", temperatures, (torch.float32,)),
        ("top_ks", top_ks, (torch.int32,)),
        ("top_ps", top_ps, (torch.float64, torch.float32)),
        ("min_ps", min_ps, (torch.float32,)),
        ("seeds", seeds, (torch.int64,)),
        ("positions", positions, (torch.int64,)),
    ):
        require(name, tensor, dtypes=dtypes, shape=(rows,), beside=logits, contiguous=True)

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    tokens = empty(rows, dtype=torch.int64)
    logprobs, shaped = empty(rows, dtype=torch.float32), empty(rows, dtype=torch.float32)
    if not rows:
        return tokens, logprobs, shaped
    first = dict(tuned("sampling", "sample_statistics", vocabulary=vocabulary))
    chunk = {"CHUNK": first["CHUNK"]}
    chunks = -(-vocabulary // first["CHUNK"])
    both = {**chunk, "CHUNKS": max(2, 1 << (chunks - 1).bit_length())}
    maxima, sums = empty(rows, chunks, dtype=torch.float32), empty(rows, chunks, dtype=torch.float64)
    places, masses = empty(rows, chunks, dtype=torch.int32), empty(rows, chunks, dtype=torch.float64)
    level_counts = empty(rows, chunks, LEVELS.value, dtype=torch.int32)
    level_masses = empty(rows, chunks, LEVELS.value, dtype=torch.float32)
    keys, ids = empty(rows, vocabulary, dtype=torch.int32), empty(rows, vocabulary, dtype=torch.int32)
    candidates = empty(rows, dtype=torch.int32)
    shape = (temperatures, top_ks, top_ps, min_ps)
    stride = logits.stride(0)
    sample_statistics[(chunks, rows)](logits, maxima, sums, places, vocabulary, stride, **first)
    sample_levels[(chunks, rows)](
        logits, *shape, maxima, masses, level_counts, level_masses, vocabulary, stride,
        **both, **tuned("sampling", "sample_levels", vocabulary=vocabulary),
    )  # fmt: skip
    sample_candidates[(chunks, rows)](
        logits, *shape, maxima, masses, level_counts, level_masses, keys, ids, candidates, vocabulary, stride,
        **both, **tuned("sampling", "sample_candidates", vocabulary=vocabulary),
    )  # fmt: skip
    sample_choose[(rows,)](
        logits, *shape, seeds, positions, maxima, sums, places, masses, keys, ids, candidates,
        tokens, logprobs, shaped, vocabulary, chunks, stride,
        **both, **tuned("sampling", "sample_choose", vocabulary=vocabulary),
    )  # fmt: skip
    return tokens, logprobs, shaped

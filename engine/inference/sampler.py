"""Drawing the next token of every row at once: greedy, temperature, top-k, top-p, min-p, and log-probabilities.

Each row takes one uniform number from (seed, position) and inverts its own distribution with it, so that neither the
other rows nor the order of rows can change what is drawn. There is no loop over rows that touches the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.inference.device_sampler import draw_by_kernel, has_kernel
from engine.inference.philox import uniform
from engine.inference.request import SamplingParams, TokenLogprob
from engine.inference.shaping import RowShape, shape
from engine.inference.transfer import Arriving, on_device
from kernels.softmax import log_sum_exp, softmax

# Rows that cut their distribution are first judged by a few of their most likely tokens. A row for which these do not
# suffice, by its own parameters and distribution, is judged again by more, at last by all.
LADDER = (128, 2048)
BLOCK = 32
SUM_BLOCK = 256
GREEDY_BELOW = 1e-5
"""Temperatures below this are zero: dividing by them could overflow."""


@dataclass(frozen=True)
class Drawn:
    """What was drawn, in the order of the rows.

    Attributes:
        tokens: one per row.
        logprobs: one per row, None for rows that did not ask.
        valid: False for rows whose logits hold a NaN or an infinity; their token means nothing.
    """

    tokens: list[int]
    logprobs: list[TokenLogprob | None]
    valid: list[bool]


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of the rows that want them, on the device.

    Attributes:
        wanted: how many alternatives, by row.
        chosen: ``[m, 1]`` float32, of the drawn token.
        values: ``[m, most]`` float32, the largest.
        ids: ``[m, most]`` int64, their tokens.
    """

    wanted: Mapping[int, int]
    chosen: Tensor
    values: Tensor
    ids: Tensor


class Pending:
    """What is being drawn: the device has been told all of it, and the host may go on before it is done.

    Attributes:
        tokens: ``[n]`` int64, on the device.
    """

    def __init__(self, tokens: Tensor, valid: Tensor, scores: Scores | None) -> None:
        self.tokens = tokens
        # One copy for both: a token that means nothing is below zero.
        self._tokens = Arriving(torch.where(valid, tokens, -1 - tokens))
        self._scores = scores
        if scores is not None:
            self._values = Arriving(torch.cat((scores.chosen, scores.values), 1))
            self._ids = Arriving(scores.ids)

    def read(self) -> Drawn:
        """The result; waits for it."""
        packed = self._tokens.read().tolist()
        tokens = [token if token >= 0 else -1 - token for token in packed]
        logprobs: list[TokenLogprob | None] = [None] * len(tokens)
        if self._scores is not None:
            values, ids = self._values.read().tolist(), self._ids.read().tolist()
            for place, (row, count) in enumerate(self._scores.wanted.items()):
                top = tuple(zip(ids[place][:count], values[place][1 : 1 + count], strict=True))
                logprobs[row] = TokenLogprob(tokens[row], values[place][0], top)
        return Drawn(tokens, logprobs, [token >= 0 for token in packed])


def draw(
    logits: Tensor,
    params: Rows[SamplingParams],
    positions: Rows[int],
    shapes: Mapping[int, RowShape] | None = None,
) -> Drawn:
    """Draw one token per row.

    Args:
        logits: ``[n, vocabulary]`` float32.
        params: how to draw, per row.
        positions: of the drawn token in its sequence, per row; with the seed it names the random number.
        shapes: by row, what changes its logits first; log-probabilities are of what they were before.
    """
    return begin(logits, params, positions, shapes).read()


def begin(
    logits: Tensor,
    params: Rows[SamplingParams],
    positions: Rows[int],
    shapes: Mapping[int, RowShape] | None = None,
    latest: Tensor | None = None,
) -> Pending:
    """Queue the draws without waiting for the device, but for grammars; ``latest`` as of ``apply_penalties``."""
    largest, tokens = _most_likely(logits)
    _draw_rows(
        logits, tokens, params, positions, [row for row in range(len(params)) if not shapes or row not in shapes]
    )
    if shapes:
        rows = list(shapes)
        index = on_device(rows, logits.device, torch.int64)
        shaped = logits.index_select(0, index)
        uncounted = None if latest is None else latest.index_select(0, index)
        shape(shaped, {place: item for place, item in enumerate(shapes.values())}, uncounted)
        _, chosen = _most_likely(shaped)
        _draw_rows(shaped, chosen, [params[row] for row in rows], [positions[row] for row in rows], range(len(rows)))
        tokens.index_copy_(0, index, chosen)
    # The largest logit of a row is finite exactly if the row holds no NaN and no +inf.
    return Pending(tokens, torch.isfinite(largest), _scores(logits, tokens, [item.logprobs for item in params]))


def draw_tokens(logits: Tensor, params: Rows[SamplingParams], positions: Rows[int]) -> list[int]:
    """Draw one token per row, without log-probabilities."""
    _, tokens = _most_likely(logits)
    _draw_rows(logits, tokens, params, positions, range(len(params)))
    found: list[int] = tokens.tolist()
    return found


def score(logits: Tensor, tokens: Rows[int], counts: Rows[int | None]) -> list[TokenLogprob | None]:
    """Log-probabilities of given tokens, one per row of ``logits [n, vocabulary]``, with ``counts`` alternatives."""
    given = on_device(tokens, logits.device, torch.int64)
    return Pending(given, torch.ones_like(given, dtype=torch.bool), _scores(logits, given, counts)).read().logprobs


def _draw_rows(
    logits: Tensor, tokens: Tensor, params: Rows[SamplingParams], positions: Rows[int], rows: Rows[int]
) -> None:
    """Write what is drawn in those of the ``rows`` that have a temperature into ``tokens [n]``."""
    random = [row for row in rows if params[row].temperature >= GREEDY_BELOW]
    if random and has_kernel(logits):
        own = [params[row] for row in random], [positions[row] for row in random]
        tokens.index_copy_(0, on_device(random, tokens.device), draw_by_kernel(_rows(logits, random), *own))
    elif random:
        chosen = _draw_random(logits, [params[row] for row in random], [positions[row] for row in random], random)
        tokens.index_copy_(0, on_device(random, tokens.device), chosen)


def _most_likely(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Largest logit and its token per row; the first NaN counts as largest."""
    if logits.device.type != "cpu":
        found = logits.max(-1)
        return found.values, found.indices
    # torch would wake its threads for it, and they would spin while the next step wants the cores.
    tokens = torch.from_numpy(logits.numpy().argmax(-1))
    return logits.gather(1, tokens.unsqueeze(1)).squeeze(1), tokens


def _draw_random(logits: Tensor, params: Rows[SamplingParams], positions: Rows[int], rows: Rows[int]) -> Tensor:
    """Tokens ``[len(rows)]`` of the rows with a temperature; ``params`` and ``positions`` are theirs."""
    device = logits.device
    seeds = np.array([item.seed for item in params], np.int64)
    uniforms = torch.from_numpy(uniform(seeds, np.array(positions, np.int64)))
    draws = on_device(uniforms, device)
    temperatures = on_device([item.temperature for item in params], device, torch.float32)
    shares = softmax(_rows(logits, rows) / temperatures.unsqueeze(1))
    tokens = torch.empty(len(rows), dtype=torch.int64, device=device)
    whole = [row for row, item in enumerate(params) if item.top_k == 0 and item.top_p >= 1]
    cut = [row for row, item in enumerate(params) if item.top_k > 0 or item.top_p < 1]
    if whole:
        chosen = _draw_whole(_rows(shares, whole), [params[row].min_p for row in whole], _rows(draws, whole))
        tokens.index_copy_(0, on_device(whole, device), chosen)
    for count in _ladder([params[row] for row in cut], shares.shape[1], waits=device.type == "cpu"):
        if cut:
            chosen, enough = _draw_cut(_rows(shares, cut), [params[row] for row in cut], _rows(draws, cut), count)
            tokens.index_copy_(0, on_device(cut, device), chosen)
            # The last step is enough for all; asking the device would make the host wait.
            fine = enough.tolist() if count < shares.shape[1] and device.type == "cpu" else [True] * len(cut)
            cut = [row for row, done in zip(cut, fine, strict=True) if not done]
    return tokens


def _ladder(params: Rows[SamplingParams], width: int, *, waits: bool) -> list[int]:
    """How many candidates to judge rows by, one after another.

    Args:
        params: of the rows that cut their distribution.
        width: of the vocabulary.
        waits: whether it may be asked between two steps which rows need more; else one step must do for all rows.
    """
    steps = [*(step for step in LADDER if step < width), width]
    return steps if waits else [next(step for step in steps if _known_to_do(params, step) or step == width)]


def _known_to_do(params: Rows[SamplingParams], count: int) -> bool:
    return all(0 < item.top_k <= count for item in params)


def _rows(matrix: Tensor, rows: Rows[int]) -> Tensor:
    """Some of the rows, in ascending order; without a copy if that is all of them."""
    if len(rows) == len(matrix):
        return matrix
    return matrix.index_select(0, on_device(rows if isinstance(rows, list) else list(rows), matrix.device))


def _draw_whole(shares: Tensor, min_p: Rows[float], draws: Tensor) -> Tensor:
    """Tokens ``[n]`` of rows that keep the whole vocabulary, but for what min-p takes away."""
    if any(min_p):
        floors = on_device(list(min_p), shares.device, torch.float32).unsqueeze(1) * shares.amax(-1, keepdim=True)
        shares = shares * (shares >= floors)
    return _invert(shares, draws)


def _draw_cut(shares: Tensor, params: Rows[SamplingParams], draws: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Tokens of rows that keep some of the most likely tokens, judged by the ``count`` most likely ones.

    Returns:
        tokens ``[n]``, and per row, ``[n]``, whether ``count`` candidates were enough to know.
    """
    width, device = shares.shape[1], shares.device
    values, ids = _best(shares, count)
    weights = values.double()
    top_k = on_device([item.top_k or width for item in params], device).unsqueeze(1)
    top_p, min_p = (
        on_device([getattr(item, name) for item in params], device, torch.float64).unsqueeze(1)
        for name in ("top_p", "min_p")
    )
    kept = torch.arange(count, device=device).unsqueeze(0) < top_k
    mass = torch.where(top_k < width, (weights * kept).sum(-1, keepdim=True), 1.0)
    below = weights.cumsum(-1) - weights
    kept &= (below < top_p * mass) & (weights >= min_p * weights[:, :1])
    kept[:, 0] = True
    # Where a row's top-k ends behind these candidates, they do not tell the mass that its top-p is a part of.
    known = (top_k >= width) & (weights.sum(-1, keepdim=True) >= top_p)
    enough = (top_k <= count) | known | (count == width)
    places = _invert(weights * kept, draws)
    return ids.gather(1, places.unsqueeze(1)).squeeze(1), enough.squeeze(1)


def _best(shares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest per row, largest first, the lower token id first among equals: values and ids."""
    rows, width = shares.shape
    if count * BLOCK >= width:
        values, ids = shares.topk(count, sorted=False)
    else:
        # The best ``count`` tokens are in the ``count`` blocks with the best maxima. Block b holds the tokens b,
        # b + blocks, b + 2 * blocks …, so that the maxima are taken over long runs of memory.
        blocks = _padded(shares, BLOCK).view(rows, BLOCK, -1)
        best = blocks.amax(1).topk(count, sorted=False).indices.unsqueeze(1).expand(-1, BLOCK, -1)
        inside = blocks.gather(2, best)
        all_ids = best + torch.arange(BLOCK, device=shares.device).view(1, -1, 1) * blocks.shape[2]
        values, places = inside.flatten(1).topk(count, sorted=False)
        ids = all_ids.flatten(1).gather(1, places)
    ids, order = ids.sort(-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _padded(rows: Tensor, multiple: int) -> Tensor:
    missing = -rows.shape[1] % multiple
    return functional.pad(rows, (0, missing)) if missing else rows


def _invert(weights: Tensor, draws: Tensor) -> Tensor:
    """First places ``[n]`` where the running sum of ``weights [n, m]`` passes the shares ``draws [n]`` of the total.

    In two stages: first the sums of blocks, then the places inside one block per row.
    """
    blocks = _padded(weights, SUM_BLOCK).view(len(weights), -1, SUM_BLOCK)
    sums = blocks.sum(-1).double()
    ends = sums.cumsum(-1)
    block, targets = _passes(ends, draws * ends[:, -1])
    index = block.unsqueeze(1)
    before = (ends.gather(1, index) - sums.gather(1, index)).squeeze(1)
    inside = blocks.gather(1, index.unsqueeze(2).expand(-1, -1, SUM_BLOCK)).squeeze(1)
    place, _ = _passes(inside.double().cumsum(-1), targets - before)
    return (block * SUM_BLOCK + place).clamp_max(weights.shape[1] - 1)


def _passes(ends: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sums ``ends [n, m]`` first exceed ``targets [n]``, and the targets.

    These are kept below the last sum, against rounding, so that no place behind the last weight is found.
    """
    last = ends[:, -1]
    targets = torch.minimum(targets, torch.nextafter(last, torch.zeros_like(last)))
    places = torch.searchsorted(ends, targets.unsqueeze(1), right=True).squeeze(1)
    return places.clamp_max(ends.shape[1] - 1), targets  # the clamp matters for rows of NaN only


def _scores(logits: Tensor, tokens: Tensor, counts: Rows[int | None]) -> Scores | None:
    """Log-probabilities of the model's own distribution for the rows that ask, with so many alternatives."""
    wanted = {row: count for row, count in enumerate(counts) if count is not None}
    if not wanted:
        return None
    rows = _rows(logits, list(wanted))
    normaliser = log_sum_exp(rows).unsqueeze(1)
    own = tokens if len(wanted) == len(tokens) else tokens[on_device(list(wanted), tokens.device)]
    chosen = rows.gather(1, own.unsqueeze(1)) - normaliser
    most = min(max(wanted.values()), rows.shape[1])
    values, ids = rows.topk(most) if most else (rows[:, :0], own.unsqueeze(1)[:, :0])
    return Scores(wanted, chosen, values - normaliser, ids)

"""Penalties and biases: which tokens of one request have a logit of their own, kept up to date token by token.

A token's logit is changed in this order, as in OpenAI's description and in vLLM: its bias is added; if it stands in the
prompt or in the answer, the repetition penalty divides it where it is positive and multiplies it where it is negative;
then the presence penalty is subtracted if it stands in the answer, and the frequency penalty for every time it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.inference.request import SamplingParams
from engine.inference.transfer import on_device


def has_penalties(sampling: SamplingParams) -> bool:
    """Whether any logit changes."""
    neutral = sampling.frequency_penalty == sampling.presence_penalty == 0 and sampling.repetition_penalty == 1
    return not neutral or bool(sampling.logit_bias)


@dataclass(frozen=True, slots=True)
class Entries:
    """The tokens with a logit of their own at one position of an answer, each once.

    Attributes:
        ids: ``[n]`` int64.
        bias: ``[n]`` float32, added.
        counts: ``[n]`` int32, how often each stands in the answer.
        before: ``[n]`` bool, whether it stands in the prompt.
        penalties: for frequency, presence and repetition.
    """

    ids: npt.NDArray[np.int64]
    bias: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int32]
    before: npt.NDArray[np.bool_]
    penalties: tuple[float, float, float]


class Penalties:
    """What one request knows of its tokens. ``push`` takes constant time, ``entries`` time by the different tokens.

    Args:
        sampling: the penalties and biases.
        prompt: its token ids.
        limit: tokens that the answer has at most.
    """

    def __init__(self, sampling: SamplingParams, prompt: Sequence[int], limit: int) -> None:
        self._sampling = sampling
        biases = dict(sampling.logit_bias)
        before = set(prompt) if sampling.repetition_penalty != 1 else set()
        known = [*biases, *(before - biases.keys())]
        room = len(known) + limit
        self._fixed = self._used = len(known)
        self._slots = {token: slot for slot, token in enumerate(known)}
        self._ids = np.zeros(room, np.int64)
        self._bias = np.zeros(room, np.float32)
        self._counts = np.zeros(room, np.int32)
        self._before = np.zeros(room, np.bool_)
        self._ids[: self._used] = known
        self._bias[: len(biases)] = list(biases.values())
        self._before[: self._used] = [token in before for token in known]

    def push(self, token: int) -> None:
        """The answer goes on by a token."""
        slot = self._slots.setdefault(token, self._used)
        if slot == self._used:
            self._ids[slot] = token
            self._used += 1
        self._counts[slot] += 1

    def pop(self, token: int) -> None:
        """Take the last ``push`` back."""
        slot = self._slots[token]
        self._counts[slot] -= 1
        if self._counts[slot] == 0 and slot >= self._fixed:
            self._used -= 1
            del self._slots[token]

    def entries(self) -> Entries:
        """Of the next token's position."""
        sampling, used = self._sampling, self._used
        penalties = (sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty)
        counts = self._counts[:used].copy()
        return Entries(self._ids[:used], self._bias[:used], counts, self._before[:used], penalties)


def apply_penalties(logits: Tensor, rows: Sequence[tuple[int, Entries]], latest: Tensor | None = None) -> None:
    """Change ``logits [n, vocabulary]`` in place, all rows in one pass.

    Args:
        logits: float32.
        rows: (row, its entries), each row once.
        latest: [n] i64, the token of each row that stands in its answer and is not counted, because the host does not
            know it yet; -1 for none.
    """
    owner = np.repeat(np.arange(len(rows)), [len(entries.ids) for _, entries in rows])
    joined = [np.concatenate([getattr(own, name) for _, own in rows]) for name in ("ids", "counts", "before")]
    numbers = on_device(torch.from_numpy(np.stack([owner, *joined]).astype(np.int64)), logits.device)
    bias = on_device(torch.from_numpy(np.concatenate([own.bias for _, own in rows])), logits.device)
    penalties = on_device([own.penalties for _, own in rows], logits.device, torch.float32)
    row = on_device([number for number, _ in rows], logits.device, torch.int64)
    owner_of, ids, counts, before = numbers
    if latest is not None:
        uncounted = latest.index_select(0, row)
        same = (ids == uncounted.index_select(0, owner_of)).long()
        counts = counts + same
    places = (row.index_select(0, owner_of), ids)
    logits[places] = _penalised(logits[places] + bias, counts, before, penalties.index_select(0, owner_of))
    if latest is not None:
        # A token that has no entry yet: it stands in the answer once and nowhere else.
        new = (uncounted >= 0) & (torch.zeros_like(uncounted).index_add_(0, owner_of, same) == 0)
        places = (row, uncounted.clamp(min=0))
        logits[places] = _penalised(logits[places], new.long(), torch.zeros_like(uncounted), penalties)


def _penalised(values: Tensor, counts: Tensor, before: Tensor, penalties: Tensor) -> Tensor:
    """values: [n] with their bias, counts and before: [n] i64, penalties: [n, 3] -> [n]."""
    frequency, presence, repetition = penalties.unbind(1)
    there = counts > 0
    repeated = torch.where(there | (before > 0), repetition, 1.0)
    taken = frequency * counts.float() + presence * there.float()
    return torch.where(values > 0, values / repeated, values * repeated) - taken

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


def has_penalties(sampling: SamplingParams) -> bool:
    """Whether any logit changes."""
    neutral = sampling.frequency_penalty == sampling.presence_penalty == 0 and sampling.repetition_penalty == 1
    return not neutral or bool(sampling.logit_bias)


@dataclass(frozen=True, slots=True)
class Entries:
    """The tokens with a logit of their own at one place of an answer, each once.

    Attributes:
        ids: ``[n]`` int64.
        bias: ``[n]`` float32, added.
        repeated: ``[n]`` float32, the repetition penalty; 1 for tokens that stand nowhere.
        taken: ``[n]`` float32, what presence and frequency take away.
    """

    ids: npt.NDArray[np.int64]
    bias: npt.NDArray[np.float32]
    repeated: npt.NDArray[np.float32]
    taken: npt.NDArray[np.float32]


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
        self._places = {token: place for place, token in enumerate(known)}
        self._ids = np.zeros(room, np.int64)
        self._bias = np.zeros(room, np.float32)
        self._counts = np.zeros(room, np.int32)
        self._before = np.zeros(room, np.bool_)
        self._ids[: self._used] = known
        self._bias[: len(biases)] = list(biases.values())
        self._before[: self._used] = [token in before for token in known]

    def push(self, token: int) -> None:
        """The answer goes on by a token."""
        place = self._places.setdefault(token, self._used)
        if place == self._used:
            self._ids[place] = token
            self._used += 1
        self._counts[place] += 1

    def pop(self, token: int) -> None:
        """Take the last ``push`` back."""
        place = self._places[token]
        self._counts[place] -= 1
        if self._counts[place] == 0 and place >= self._fixed:
            self._used -= 1
            del self._places[token]

    def entries(self) -> Entries:
        """Of the next token's place."""
        sampling, used = self._sampling, self._used
        counts = self._counts[:used]
        there = counts > 0
        taken = np.float32(sampling.frequency_penalty) * counts.astype(np.float32)
        taken += np.float32(sampling.presence_penalty) * there.astype(np.float32)
        repeated = np.where(there | self._before[:used], np.float32(sampling.repetition_penalty), np.float32(1))
        return Entries(self._ids[:used], self._bias[:used], repeated, taken)


def apply_penalties(logits: Tensor, rows: Sequence[tuple[int, Entries]]) -> None:
    """Change ``logits [n, vocabulary]`` in place, all rows in one pass; ``rows`` has (row, its entries)."""
    index = np.repeat([row for row, _ in rows], [len(entries.ids) for _, entries in rows])
    ids, bias, repeated, taken = (
        torch.from_numpy(np.concatenate([getattr(entries, name) for _, entries in rows])).to(logits.device)
        for name in ("ids", "bias", "repeated", "taken")
    )
    places = (torch.from_numpy(index.astype(np.int64)).to(logits.device), ids)
    values = logits[places] + bias
    logits[places] = torch.where(values > 0, values / repeated, values * repeated) - taken

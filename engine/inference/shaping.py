"""What a request does to its logits before a token is drawn: penalties, biases, a least length, a grammar.

All of it depends on the request's own tokens alone. Behind the known tokens there may be drafts (see ``speculation``):
a row behind a draft is shaped as if the draft had been drawn, and is only used if it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.inference.masks import Matcher, Words, allowed, masks_along
from engine.inference.penalties import Entries, Penalties, apply_penalties, has_penalties
from engine.inference.request import Request
from engine.inference.transfer import on_device
from fw_sdk.types import FwError


def check_shaping(request: Request, vocabulary: int) -> None:
    """Refuse what a request wants of its logits but cannot have.

    Raises:
        FwError: ``invalid_argument``.
    """
    sampling, nothing = request.sampling, "nothing was generated"
    outside = [token for token, _ in sampling.logit_bias if token >= vocabulary]
    if outside:
        message = f"logit_bias has the token id {outside[0]}; the model has 0 to {vocabulary - 1}"
        raise FwError("invalid_argument", message, not_done=nothing, param="logit_bias")
    if sampling.min_tokens and request.grammar is not None:
        message = f"min_tokens is {sampling.min_tokens}, but the answer's grammar says where it ends"
        raise FwError("invalid_argument", message, not_done=nothing, hint="leave min_tokens out", param="min_tokens")


@dataclass(frozen=True, slots=True)
class RowShape:
    """What happens to one row: None and nothing for what does not."""

    entries: Entries | None
    banned: tuple[int, ...]
    mask: Words | None


class Shaping:
    """One request's penalties and its place in its grammar.

    Args:
        request: with something to shape, see ``of``.
        limit: tokens that the answer has at most.
        ends: tokens that end the answer.

    Attributes:
        matcher: of the grammar, at the end of the known tokens.
    """

    def __init__(self, request: Request, limit: int, ends: frozenset[int]) -> None:
        sampling = request.sampling
        self._penalties = Penalties(sampling, request.prompt, limit) if has_penalties(sampling) else None
        self.matcher: Matcher | None = request.grammar.matcher() if request.grammar is not None else None
        self._ends, self._banned, self._least = ends, tuple(sorted(ends)), sampling.min_tokens
        self._generated = 0

    @classmethod
    def of(cls, request: Request, limit: int, ends: frozenset[int]) -> Shaping | None:
        """None for a request that takes the logits as they are."""
        sampling = request.sampling
        shapes = has_penalties(sampling) or request.grammar is not None or (sampling.min_tokens and ends)
        return cls(request, limit, ends) if shapes else None

    def push(self, token: int) -> None:
        """Go on by a drawn token.

        Raises:
            FwError: from the matcher.
        """
        self._generated += 1
        if self._penalties is not None:
            self._penalties.push(token)
        if self.matcher is not None and token not in self._ends:
            self.matcher.accept(token)

    @property
    def finished(self) -> bool:
        """Whether the grammar lets nothing but the end follow."""
        return self.matcher is not None and self.matcher.finished

    @property
    def on_device(self) -> bool:
        """Whether a row can be shaped while the token before it is known to the device alone; a grammar reads it."""
        return self.matcher is None

    def rows(self, drafts: Sequence[int], placeholders: int = 0) -> list[RowShape]:
        """Of the next token and of the ones behind the drafts.

        Args:
            drafts: guesses behind the known tokens.
            placeholders: tokens there that the device alone knows; without drafts.

        Raises:
            FwError: from the matcher.
        """
        masks = masks_along(self.matcher, drafts, self._ends) if self.matcher else [None] * (len(drafts) + 1)
        entries = self._entries(drafts)
        early = max(0, self._least - self._generated - placeholders)
        return [
            RowShape(own, self._banned if place < early else (), mask)
            for place, (own, mask) in enumerate(zip(entries, masks, strict=True))
        ]

    def _entries(self, drafts: Sequence[int]) -> list[Entries | None]:
        if self._penalties is None:
            return [None] * (len(drafts) + 1)
        found: list[Entries | None] = [self._penalties.entries()]
        for draft in drafts:
            self._penalties.push(draft)
            found.append(self._penalties.entries())
        for draft in reversed(drafts):
            self._penalties.pop(draft)
        return found


def shape(logits: Tensor, shapes: Mapping[int, RowShape], latest: Tensor | None = None) -> None:
    """Change rows of ``logits [n, vocabulary]`` in place; ``shapes`` by row, ``latest`` as of ``apply_penalties``."""
    penalised = [(row, item.entries) for row, item in shapes.items() if item.entries is not None]
    if penalised:
        apply_penalties(logits, penalised, latest)
    masked = {row: item.mask for row, item in shapes.items() if item.mask is not None}
    if masked:
        closed = torch.from_numpy(~allowed(list(masked.values()), logits.shape[1])).to(logits.device)
        index = torch.tensor(list(masked), device=logits.device)
        logits[index] = logits[index].masked_fill_(closed, -torch.inf)
    banned = [(row, token) for row, item in shapes.items() for token in item.banned if 0 <= token < logits.shape[1]]
    if banned:
        rows, tokens = on_device(torch.tensor(banned, dtype=torch.int64), logits.device).unbind(1)
        logits[rows, tokens] = -torch.inf

"""Guesses at the next tokens, computed in the same step and kept while they are right: more tokens per step, same text.

A step computes a sequence's last known token. With guesses behind it, its logits at several places cost little more
than at one. At each place a token is drawn from the target's own logits, as it would have been without guesses. While
what is drawn equals the guess, the place behind it was computed from the right tokens, so what is drawn there counts
too; behind the first guess that differs, nothing does.

Why the text stays the same, and with it the distribution: a draw is a function of the seed, the position, and the
logits at that position after penalties and grammar, which depend on the tokens before it alone (``sampler``,
``shaping``). A draw counts only if all tokens before it are those that would have been drawn. So by induction every
token is the one that would have been drawn without guesses, whoever guessed and however badly. No probability of a
guess enters, hence nothing has to be corrected. In exact numerics, where a row of logits has the same bits in any batch
and chunk, this holds bit for bit; in others as far as rounding does not move a draw across a boundary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.inference.sequence import Sequence as Tokens

PROBATION = 24
"""Guesses that a sequence gets before it is judged."""
LEAST_SHARE = 0.25
"""A sequence of whose guesses fewer than this share hold gets no more."""
MEMORY = 96
"""Guesses over which the share is taken, about."""


class Proposer(Protocol):
    """Who guesses."""

    def propose(self, wanted: Sequence[tuple[Tokens, int]]) -> list[list[int]]:
        """Guesses behind the known tokens of each sequence, at most as many as wanted, and none where it knows none."""
        ...

    def forget(self, sequence_id: str) -> None:
        """The sequence is over."""
        ...


@dataclass(slots=True)
class _Record:
    """How well a sequence's tokens are guessed, lately."""

    drafted: int = 0
    accepted: int = 0

    def add(self, drafted: int, accepted: int) -> None:
        self.drafted += drafted
        self.accepted += accepted
        if self.drafted > MEMORY:
            self.drafted, self.accepted = self.drafted // 2, self.accepted // 2

    @property
    def pays(self) -> bool:
        return self.drafted < PROBATION or self.accepted >= LEAST_SHARE * self.drafted


class Speculation:
    """Who gets how many guesses, and how many of them hold.

    Args:
        proposer: makes them.
        most: per sequence and step.

    Attributes:
        drafted: guesses computed so far.
        accepted: guesses that held.
        steps: times that a sequence had any.
    """

    def __init__(self, proposer: Proposer, most: int) -> None:
        self._proposer = proposer
        self._most = most
        self._records: dict[str, _Record] = {}
        self.drafted = self.accepted = self.steps = 0

    def propose(self, running: Iterable[Tokens]) -> None:
        """Put guesses behind the known tokens of the sequences that will draw a token in the next step."""
        wanted = []
        for sequence in running:
            sequence.drafted = 0
            # The last token of all needs no guess behind it.
            most = min(self._most, sequence.limit - sequence.known - 1)
            if most > 0 and sequence.pending == 1 and self._records.setdefault(sequence.id, _Record()).pays:
                wanted.append((sequence, most))
        if not wanted:
            return
        for (sequence, most), guesses in zip(wanted, self._proposer.propose(wanted), strict=True):
            sequence.drafted = min(len(guesses), most)
            sequence.tokens[sequence.known : sequence.known + sequence.drafted] = guesses[:most]

    def judge(self, sequence: Tokens, accepted: int) -> None:
        """Of the sequence's guesses so many held; before ``Sequence.settle``."""
        if sequence.drafted:
            self._records[sequence.id].add(sequence.drafted, accepted)
            self.drafted += sequence.drafted
            self.accepted += accepted
            self.steps += 1

    def forget(self, sequence_id: str) -> None:
        """The sequence is over."""
        if self._records.pop(sequence_id, None) is not None:
            self._proposer.forget(sequence_id)

    def forget_all(self) -> None:
        """Every sequence is over."""
        for sequence_id in list(self._records):
            self.forget(sequence_id)


class PromptLookup:
    """Guesses that what followed the last few tokens when they stood before will follow them again.

    Args:
        width: how many tokens must be the same.
    """

    def __init__(self, width: int = 3) -> None:
        self._width = width
        self._known: dict[str, _NgramIndex] = {}

    def propose(self, wanted: Sequence[tuple[Tokens, int]]) -> list[list[int]]:
        """Guess what followed where the last tokens stood before."""
        return [
            self._known.setdefault(sequence.id, _NgramIndex(self._width)).following(sequence, most)
            for sequence, most in wanted
        ]

    def forget(self, sequence_id: str) -> None:
        """Drop the sequence's n-gram index."""
        self._known.pop(sequence_id, None)


class _NgramIndex:
    """Where runs of ``width`` tokens of one sequence stood last, the run at its end left out."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._seen = 0
        self._behind: dict[tuple[int, ...], int] = {}

    def following(self, sequence: Tokens, most: int) -> list[int]:
        """The ``most`` tokens that followed the last ones where they stood before; none if they never did."""
        width, known = self._width, sequence.known
        begin = max(0, self._seen - width)
        new: list[int] = sequence.tokens[begin:known].tolist()
        if len(new) < width:
            return []
        # Runs that end before the last token: something stands behind each of them.
        runs = zip(*(new[start : len(new) - width + start] for start in range(width)), strict=True)
        self._behind.update(zip(runs, range(begin + width, known), strict=True))
        self._seen = known
        place = self._behind.get(tuple(new[-width:]))
        if place is None:
            return []
        # What repeats shorter than ``most`` goes on repeating.
        period: list[int] = sequence.tokens[place : min(known, place + most)].tolist()
        return (period * (most // len(period) + 1))[:most]

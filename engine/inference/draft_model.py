"""Guesses of a second, smaller model, with pages of its own: a proposer for ``speculation``.

It draws with the same parameters, seed and position as the target will, so that both turn one random number into a
token and agree as often as their distributions allow. It knows no penalties, grammars or adapters: guesses are free to
be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.inference.config import EngineConfig
from engine.inference.pages import PagePool
from engine.inference.runner import Runner
from engine.inference.sampler import draw_tokens
from engine.inference.scheduler import Slice, StepPlan
from engine.inference.sequence import Sequence as Tokens
from engine.inference.speculation import PromptLookup, Speculation
from engine.text import Tokenizer
from fw_sdk.types import FwError


def speculation(config: EngineConfig, target: Runner, draft: Runner | None, max_tokens: int) -> Speculation | None:
    """Whoever guesses for ``target`` as ``config`` says; None if nobody does.

    Raises:
        FwError: ``invalid_argument`` for a draft model that is missing or not wanted, ``failed_precondition`` for
            models whose state cannot go back to before a wrong guess.
    """
    if (config.speculation == "draft") != (draft is not None):
        message = "speculation 'draft' needs a draft model, and only it does"
        raise FwError("invalid_argument", message, not_done="the model was not loaded", param="draft_model")
    if config.speculation == "off":
        return None
    if not (target.rewinds and (draft is None or draft.rewinds)):
        raise FwError(
            "failed_precondition",
            "a recurrent state cannot go back to before a wrong guess, so this model computes no guesses",
            not_done="the model was not loaded",
            hint="leave speculation off",
            param="speculation",
        )
    if draft is None:
        return Speculation(PromptLookup(), config.draft_tokens)
    vocabulary = target.config.vocab_size
    proposer = DraftModel(draft, page_size=config.page_size, max_tokens=max_tokens, vocabulary=vocabulary)
    return Speculation(proposer, config.draft_tokens)


def check_same_tokens(target: Tokenizer, draft: Tokenizer) -> None:
    """Raise ``failed_precondition`` unless both tokenizers mean the same by every id that both have."""
    for token in range(min(target.vocab_size, draft.vocab_size)):
        if target.token(token) != draft.token(token):
            raise FwError(
                "failed_precondition",
                f"the draft model has other tokens: id {token} is {draft.token(token)!r}, not {target.token(token)!r}",
                not_done="the model was not loaded",
                hint="take a smaller model of the same family",
                param="draft_model",
            )


class DraftModel:
    """A runner that follows the target's sequences and runs ahead of them; as ``Proposer``.

    Args:
        runner: the small model. Its vocabulary must be the target's, but for unused tokens at the end.
        page_size: tokens per page.
        max_tokens: that it computes in one step.
        vocabulary: tokens that the target knows.
    """

    def __init__(self, runner: Runner, *, page_size: int, max_tokens: int, vocabulary: int) -> None:
        self._runner = runner
        self._page_size, self._max_tokens = page_size, max_tokens
        self._vocabulary = vocabulary
        self._context = min(runner.config.max_context, runner.memory.tokens)
        self._pool = PagePool(runner.memory.pages)
        self._followers: dict[str, Tokens] = {}

    @torch.inference_mode()
    def propose(self, wanted: Sequence[tuple[Tokens, int]]) -> list[list[int]]:
        """The draft model's guesses; none for a sequence it has not caught up with or has no pages for."""
        guesses: dict[str, list[int]] = {sequence.id: [] for sequence, _ in wanted}
        most = {sequence.id: count for sequence, count in wanted}
        followers = [found for sequence, count in wanted if (found := self._follow(sequence, count)) is not None]
        slices = self._first_slices(followers)
        while slices:
            logits = self._runner.compute(StepPlan(slices), {})
            for item in slices:
                item.sequence.computed = item.end
            drawing = [row.sequence for row in logits.rows]
            params = [follower.request.sampling for follower in drawing]
            drawn = draw_tokens(logits.values, params, [row.position for row in logits.rows]) if drawing else []
            for follower, token in zip(drawing, drawn, strict=True):
                if token < self._vocabulary:
                    guesses[follower.id].append(token)
                    follower.append(token)
            going = [item for item in drawing if item.pending == 1 and len(guesses[item.id]) < most[item.id]]
            slices = tuple(Slice(follower, follower.computed, 1, rows=1) for follower in going)
        return [guesses[sequence.id] for sequence, _ in wanted]

    def forget(self, sequence_id: str) -> None:
        """Drop the sequence's copy and give its pages back."""
        follower = self._followers.pop(sequence_id, None)
        if follower is not None:
            self._drop_pages(follower)

    def _first_slices(self, followers: Sequence[Tokens]) -> tuple[Slice, ...]:
        """What is known but not computed here yet, as far as one step goes: a new prompt, or one or two tokens."""
        left, slices = self._max_tokens, list[Slice]()
        for follower in followers:
            count = min(follower.pending, left)
            if count:
                slices.append(Slice(follower, follower.computed, count, rows=int(count == follower.pending)))
            left -= count
        return tuple(slices)

    def _follow(self, sequence: Tokens, most: int) -> Tokens | None:
        """The sequence as this model sees it, with pages for ``most`` guesses; None if it cannot have them."""
        known = sequence.tokens[: sequence.known]
        if len(known) + most > self._context or int(known.max()) >= self._runner.config.vocab_size:
            return None
        follower = self._followers.get(sequence.id)
        if follower is None:
            follower = Tokens(sequence.request, arrival=sequence.arrival, limit=sequence.limit)
            self._followers[sequence.id] = follower
        missing = -(-(len(known) + most) // self._page_size) - len(follower.pages)
        if missing > self._pool.free:
            self._drop_pages(follower)
            return None
        follower.pages.extend(self._pool.take() for _ in range(missing))
        computed = min(follower.computed, len(known) - 1)
        same = follower.tokens[:computed] == known[:computed]
        follower.computed = computed if same.all() else int(same.argmin())
        follower.tokens[: len(known)] = known
        follower.known = len(known)
        return follower

    def _drop_pages(self, follower: Tokens) -> None:
        for page in follower.pages:
            self._pool.release(page)
        del follower.pages[:]
        follower.computed = 0

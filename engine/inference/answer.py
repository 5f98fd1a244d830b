"""From drawn tokens to an answer: their text, where it ends and why, and all outputs of a request as one."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

from engine.inference.adapters import Resident
from engine.inference.request import Completion, FinishReason, Output, TokenLogprob, Usage
from engine.inference.sequence import Sequence
from engine.inference.shaping import Shaping
from engine.text import StopMatcher, StreamDecoder


@dataclass
class Live:
    """A request in the engine with what turns its tokens into text.

    Attributes:
        sequence: its tokens and pages.
        adapter: the weights it runs with; None is the base. It keeps them even if their name is unloaded.
        stop_ids: tokens that end it.
        decoder: None if there is no tokenizer.
        matcher: finds its stop strings.
        shaping: what changes its logits; None for nothing.
        scores: log-probabilities of its prompt so far; None if they were not asked for or have been given.
    """

    sequence: Sequence
    adapter: Resident | None
    stop_ids: frozenset[int]
    decoder: StreamDecoder | None
    matcher: StopMatcher
    shaping: Shaping | None
    scores: list[TokenLogprob | None] | None

    def extend(self, tokens: Items[int]) -> tuple[int, str, FinishReason | None]:
        """Make drawn tokens known, up to the one that ends the request.

        Returns:
            how many became known, the text they bring, and why the request ends with the last of them, if it does.

        Raises:
            FwError: from the grammar.
        """
        text, reason, count = "", None, 0
        for token in tokens:
            self.sequence.append(token)
            if self.shaping is not None:
                self.shaping.push(token)
            more, reason = self.text_and_end(token)
            text, count = text + more, count + 1
            if reason is not None:
                break
        return count, text, reason

    def text_and_end(self, token: int) -> tuple[str, FinishReason | None]:
        """The text that a new token brings, and why the request ends with it, if it does."""
        sequence, matcher, decoder = self.sequence, self.matcher, self.decoder
        silent = token in self.stop_ids
        ends = silent or (self.shaping is not None and self.shaping.finished)
        full = sequence.known >= sequence.limit
        text = decoder.push(token) if decoder is not None and not silent else ""
        if decoder is not None and (ends or full):
            text += decoder.flush()
        shown, hit = matcher.push(text)
        if hit:
            return shown, "stop"
        if ends or full:
            return shown + matcher.flush(), "stop" if ends else "length"
        return shown, None

    @property
    def begun(self) -> bool:
        """Whether anything was computed for it."""
        return self.sequence.computed > 0 or self.sequence.generated > 0

    def cut(self) -> str:
        """The text that was held back, because nothing comes after it now."""
        text = self.decoder.flush() if self.decoder is not None else ""
        shown, hit = self.matcher.push(text)
        return shown if hit else shown + self.matcher.flush()

    @property
    def usage(self) -> Usage:
        """Counts up to here."""
        sequence = self.sequence
        queued = sequence.admitted_s - sequence.arrived_s
        return Usage(len(sequence.request.prompt), sequence.generated, sequence.cached, sequence.cache_miss, queued)


def completion(outputs: Items[Output]) -> Completion:
    """A finished request's outputs, joined; raises its error if it has one."""
    last = outputs[-1]
    if last.error is not None:
        raise last.error
    assert last.finish_reason is not None
    return Completion(
        last.request_id,
        tuple(token for output in outputs for token in output.token_ids),
        "".join(output.text for output in outputs),
        tuple(item for output in outputs for item in output.logprobs),
        last.finish_reason,
        last.usage,
        tuple(version for output in outputs for version in output.weight_versions),
        tuple(item for output in outputs for item in output.prompt_logprobs),
    )

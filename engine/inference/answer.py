"""From drawn tokens to an answer: their text, where it ends and why, and all outputs of a request as one."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

from engine.inference.adapters import Resident
from engine.inference.request import Completion, FinishReason, Output, Usage
from engine.inference.sequence import Sequence
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
    """

    sequence: Sequence
    adapter: Resident | None
    stop_ids: frozenset[int]
    decoder: StreamDecoder | None
    matcher: StopMatcher

    def text_and_end(self, token: int) -> tuple[str, FinishReason | None]:
        """The text that a new token brings, and why the request ends with it, if it does."""
        sequence, matcher, decoder = self.sequence, self.matcher, self.decoder
        ends = token in self.stop_ids
        full = sequence.known >= sequence.limit
        text = decoder.push(token) if decoder is not None and not ends else ""
        if decoder is not None and (ends or full):
            text += decoder.flush()
        shown, hit = matcher.push(text)
        if hit:
            return shown, "stop"
        if ends or full:
            return shown + matcher.flush(), "stop" if ends else "length"
        return shown, None

    @property
    def usage(self) -> Usage:
        """Counts up to here."""
        sequence = self.sequence
        return Usage(len(sequence.request.prompt), sequence.generated, sequence.cached, sequence.cache_miss)


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
    )

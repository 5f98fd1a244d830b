"""What can be done next, free of any surface: a verb with its arguments, and steps that say why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fw_sdk.types import Job, JobKind


@dataclass(frozen=True)
class Placeholder:
    """A value that the reader fills in. ``text`` says what belongs there; empty where the name says enough."""

    text: str = ""


OPEN = Placeholder()


class EvaluationOf(str):
    """A model's id where an evaluation of it is meant: agents may name the model, the shell needs the evaluation."""


@dataclass(frozen=True)
class Action:
    """One call, named as the MCP tool is; ``fw_sdk.results.spelling`` writes it for each surface.

    Attributes:
        verb: a key of ``spelling.COMMANDS``.
        arguments: by the tool's parameter names; those that are None are left out.
        same_arguments: the arguments of the reader's own last call are meant besides.
    """

    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    same_arguments: bool = False


Spell = Callable[[Action], str]


@dataclass(frozen=True)
class Step:
    """An action and, as a sentence that goes on from it, what it does or when it is right; or a sentence alone.

    ``instead`` marks an alternative to the steps before it.
    """

    action: Action | None
    says: str = ""
    instead: bool = False

    def text(self, spell: Spell) -> str:
        """The step as one sentence."""
        return " ".join(part for part in (spell(self.action) if self.action else "", self.says) if part)


def act(verb: str, says: str = "", /, **arguments: Any) -> Step:
    """A step with the arguments that are not None."""
    return Step(Action(verb, {key: value for key, value in arguments.items() if value is not None}), says)


def again(verb: str, says: str = "", /, **changes: Any) -> Step:
    """A step that repeats the reader's own call of ``verb`` with some changes."""
    return Step(Action(verb, changes, same_arguments=True), says)


def say(words: str) -> Step:
    """A step that needs no call."""
    return Step(None, words)


def instead(step: Step) -> Step:
    """``step`` as an alternative to those before it."""
    return replace(step, instead=True)


def sentence(steps: Iterable[Step], spell: Spell) -> str:
    """Steps in their order as one line."""
    joined = ""
    for step in steps:
        joined += ("; or " if step.instead else "; then ") * bool(joined) + step.text(spell)
    return joined


def go_on(job: Job) -> Step:
    """What starts a failed or cancelled job again where it stopped."""
    return act("job_resume", "goes on where it stopped", job_id=job.id, kind=job.kind)


STARTED_BY = {
    JobKind.PIPELINE: "customize",
    JobKind.FINETUNE: "finetune",
    JobKind.EVALUATE: "evaluate",
    JobKind.PULL: "model_pull",
}
"""The verb that starts a job of a kind."""


def short(name: str | None) -> str | None:
    """The id in a full resource name."""
    return name.rsplit("/", 1)[-1] if name else name

"""The daemon's hints in the words of the surface that shows them: its HTTP calls as actions, its fields as options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fw_sdk.results.actions import Action, Placeholder, Spell
from fw_sdk.results.spelling import command, tool_call


def _listing(collection: str) -> Action:
    return Action("overview", {"only": LISTED.get(collection, "jobs")})


def _pull(source: str) -> Action:
    return Action("model_pull", {"source": source or Placeholder()})


ROOT = "/v1/accounts/local"
LISTED = {
    name: name.removesuffix("V2")
    for name in ("models", "datasets", "evaluators", "evaluatorsV2", "jobs", "comparisons", "deployments")
}
"""Collections of the API that a listing has under that name; the others are jobs of a kind."""
_ID = r"(?P<id>[^\s/:,;?]+)"
PATHS: tuple[tuple[str, Callable[[str], Action]], ...] = (
    (rf"GET {ROOT}/jobs/{_ID}:wait", lambda found: Action("job_wait", {"job_id": found})),
    (rf"POST {ROOT}/jobs/{_ID}:resume", lambda found: Action("job_resume", {"job_id": found})),
    (rf"POST {ROOT}/datasets/{_ID}:upload", lambda _: Action("dataset", {"path": "train.jsonl", "save": True})),
    (rf"POST {ROOT}/models:pull(?: \{{\"source\": \"(?P<id>[^\"]+)\"\}})?", _pull),
    (rf"POST {ROOT}/datasets(?:, then its :upload)?", lambda _: Action("dataset", {"path": "train.jsonl"})),
    (rf"POST {ROOT}/evaluatorsV2", lambda _: Action("evaluator_create")),
    (rf"POST {ROOT}/pipelines", lambda _: Action("customize", same_arguments=True)),
    (r"POST /v1/(?:chat/)?completions", lambda _: Action("generate", {"model": Placeholder()})),
    (rf"GET {ROOT}/(?P<id>[A-Za-z0-9]+)(?![/:\w])", _listing),
    (r"GET /v1/models", lambda _: Action("overview")),
)
"""What a call over HTTP, as the daemon's hints write it, asks for."""


@dataclass(frozen=True)
class Surface:
    """How one surface speaks: its calls, and its names for the fields of the HTTP API."""

    spell: Spell
    words: Mapping[str, str]


WORDS: Mapping[str, tuple[str, str]] = {
    "split 'all'": ("split='all'", "--split all"),
    "anyway with force": ("anyway with force=true", "anyway with --force"),
    "heldoutFraction": ("heldout_fraction", "--heldout-fraction"),
    "name an evaluationDataset": ("give heldout", "give --heldout"),
    "outputModel": ("name", "--output-model"),
    "baseModel": ("base_model", "BASE"),
    "learningRate": ("learning_rate", "-t learning_rate"),
    "maxContextLength": ("max_context_length", "-t max_context_length"),
    "details.report.problems": ("the report", "the list below"),
}
"""What the daemon calls a field, and what a tool and a command call it."""

AGENT = Surface(tool_call, {said: words[0] for said, words in WORDS.items()})
SHELL = Surface(command, {said: words[1] for said, words in WORDS.items()})


def in_words_of(surface: Surface, text: str) -> str:
    """``text`` of the daemon as that surface says it."""
    for path, action in PATHS:
        text = re.sub(path, _spelled(action, surface.spell), text)
    for said, words in surface.words.items():
        text = text.replace(said, words)
    return text


def _spelled(action: Callable[[str], Action], spell: Spell) -> Callable[[re.Match[str]], str]:
    return lambda match: spell(action(match.groupdict().get("id") or ""))

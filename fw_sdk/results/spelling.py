"""An action as each surface writes it: a tool call for agents, a command for the shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from fw_sdk.results.actions import OPEN, STARTED_BY, Action, EvaluationOf, Placeholder

Arguments = Mapping[str, Any]


def tool_call(action: Action) -> str:
    """``deploy(model='days', force=true)``: the action as an MCP tool's call."""
    if action.verb in NOT_TOOLS:
        return NOT_TOOLS[action.verb](action.arguments)
    written = [f"{key}={_literal(value)}" for key, value in action.arguments.items()]
    return f"{action.verb}({', '.join([*(['...'] if action.same_arguments else []), *written])})"


def _start_again(arguments: Arguments) -> str:
    kind = arguments.get("kind")
    if kind in STARTED_BY:
        return f"{STARTED_BY[kind]}(...) with the same arguments"
    return f"job_get(job_id={_literal(arguments.get('job_id', Placeholder()))}) and what its next says"


NOT_TOOLS: dict[str, Callable[[Arguments], str]] = {
    "daemon_start": lambda _: "a person must run `fw up --detach` and `fw doctor`",
    "evaluator_create": lambda _: "evaluator_check(evaluator='<path or source>', data=...)",
    "job_resume": _start_again,
}
"""Verbs that no tool has by itself, and what an agent does instead."""


def command(action: Action) -> str:
    """``fw deploy start days --force``: the action as a shell command."""
    return COMMANDS[action.verb](action.arguments)


def quoted_command(action: Action) -> str:
    """``command`` between backticks, for a sentence."""
    return f"`{command(action)}`"


def literal(value: Any) -> str:
    """A value as a tool call writes it."""
    return repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _literal(value: Any) -> str:
    if isinstance(value, Placeholder):
        return repr(f"<{value.text}>") if value.text else "..."
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return literal(value)


def _word(arguments: Arguments, key: str, otherwise: str = "") -> str:
    """An argument as a shell word; a placeholder, or one that is missing, is its name in capitals."""
    value = arguments.get(key)
    if value is None or isinstance(value, Placeholder):
        return otherwise or key.upper()
    return shlex.quote(f"{value:g}" if isinstance(value, float) else str(value))


def _options(arguments: Arguments, names: Mapping[str, str]) -> str:
    """The options among the arguments, each with a space before it; ``True`` is a flag."""
    written = []
    for key, option in names.items():
        value = arguments.get(key)
        if value is True:
            written.append(f" {option}")
        elif value is not None and value is not False:
            written.append(f" {option} {_word(arguments, key)}")
    return "".join(written)


def _deploy(arguments: Arguments) -> str:
    if arguments.get("action") == "stop":
        return f"fw deploy stop {_word(arguments, 'name')}"
    names = ("comparison", "gate", "margin", "min_score", "force")
    options = {"name": "--id", **{name: f"--{name.replace('_', '-')}" for name in names}}
    return f"fw deploy start {_word(arguments, 'model')}{_options(arguments, options)}"


def _job_get(arguments: Arguments) -> str:
    verbs = {"samples": "fw eval scores", "logs": "fw job logs", "metrics": "fw job events"}
    return f"{verbs.get(str(arguments.get('view')), 'fw job show')} {_word(arguments, 'job_id')}"


def _customize(arguments: Arguments) -> str:
    base = _word(arguments, "base_model", "BASE")
    heldout = _options(arguments, {"heldout": "--heldout"})
    return f"fw pipeline start {base} {_word(arguments, 'data')} {_word(arguments, 'evaluator')}{heldout} --wait"


def _evaluate(arguments: Arguments) -> str:
    words = " ".join(_word(arguments, key) for key in ("model", "data", "evaluator"))
    examples = f" --few-shot {_word(arguments, 'data')}" if arguments.get("few_shot") else ""
    names = {"few_shot": "--few-shot-count", "split": "--split", "limit": "--limit", "max_tokens": "--max-tokens"}
    return f"fw eval start {words}{examples}{_options(arguments, names)} --wait"


def _dataset(arguments: Arguments) -> str:
    if "path" not in arguments:
        return f"fw dataset show {_word(arguments, 'id', 'DATASET')}"
    return f"fw dataset {'create' if arguments.get('save') else 'check'} {_word(arguments, 'path')}"


def _generate(arguments: Arguments) -> str:
    system = _options(arguments, {"system": "--system"})
    return f"fw chat {_word(arguments, 'model')} 'Your question'{system}"


def _compare(arguments: Arguments) -> str:
    found = {key: OPEN if isinstance(value, EvaluationOf) else value for key, value in arguments.items()}
    return f"fw compare {_word(found, 'baseline')} {_word(found, 'candidate')}"


def _overview(arguments: Arguments) -> str:
    kind = arguments.get("only")
    return f"fw {'deploy' if kind == 'deployments' else str(kind).removesuffix('s')} list" if kind else "fw status"


COMMANDS: dict[str, Callable[[Arguments], str]] = {
    "compare": _compare,
    "customize": _customize,
    "daemon_start": lambda _: "fw up --detach",
    "dataset": _dataset,
    "deploy": _deploy,
    "evaluate": _evaluate,
    "evaluator_check": lambda found: f"fw evaluator check {_word(found, 'evaluator')} --dataset {_word(found, 'data')}",
    "evaluator_create": lambda found: f"fw evaluator create {_word(found, 'path', 'EVALUATOR.py')}",
    "finetune": lambda found: f"fw finetune start {_word(found, 'base_model', 'BASE')} {_word(found, 'data')} --wait",
    "generate": _generate,
    "job_cancel": lambda found: f"fw job cancel {_word(found, 'job_id', 'JOB')}",
    "job_get": _job_get,
    "job_resume": lambda found: f"fw job resume {_word(found, 'job_id', 'JOB')}",
    "job_wait": lambda found: f"fw job wait {_word(found, 'job_id', 'JOB')}",
    "model_pull": lambda found: f"fw model pull {_word(found, 'source')}",
    "overview": _overview,
}
"""How the shell says each verb."""

"""What a tool hands back: text and structured content that say the same, bounded, and with the next call in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp.types import CallToolResult, ImageContent, TextContent

from fw_sdk.results.hints import AGENT, in_words_of
from fw_sdk.types import FwError

MAX_RESULT_CHARS = 20_000
MAX_STRING_CHARS = 4_000
MAX_UNTRUSTED_CHARS = 2_000
MAX_PAGE_CHARS = 14_000
MAX_DETAIL_ITEMS = 10
FENCE_OPEN, FENCE_CLOSE = "<<untrusted", ">>"

_INVISIBLE = re.compile(
    "\x1b\\[[0-9;?]*[ -/]*[@-~]"  # terminal escapes
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
    "|[\U000e0000-\U000e007f]"
)

UNTRUSTED_DETAILS = frozenset({"message", "log_tail", "logTail", "output", "error"})

T = TypeVar("T")


class Shown(dict[str, Any]):
    """A part of an error's details in which the text of data is fenced already, and which is short enough."""


NEXT_CALL: dict[str, str] = {
    "dataset_invalid": 'correct the named lines in the file, each {"messages": [..., {"role": "assistant", "content": '
    '"..."}]}, then call dataset(path=...) again; it lists every line',
    "evaluator_invalid": "docs_search(query='evaluator file') shows the function an evaluator needs",
    "evaluator_failed": "correct the evaluator so that it returns a finite number for every row, then call again",
    "model_unsupported": "overview() lists the models and starters that work here",
    "not_found": "overview() lists every id that exists",
    "gate_not_met": "compare(...) shows why; deploy(..., force=true) overrides the gate on purpose",
    "unavailable": "call again in a few seconds; if it stays so, a person must run `fw up --detach` and `fw doctor`",
    "worker_lost": "job_wait(job_id=...) shows whether it was retried; overview() shows memory and jobs",
    "resource_exhausted": "overview() shows what runs; stop a deployment or wait for a job, then call again",
    "out_of_memory": "call again with a smaller base model, or stop a deployment first",
    "deadline_exceeded": "call job_wait(job_id=...) again",
}


WORDS_OF_OUR_OWN = frozenset({"dataset_invalid"})
"""Codes whose hint speaks of the HTTP API though it names no path."""


def clean(text: str, limit: int = MAX_STRING_CHARS) -> str:
    """``text`` without control, terminal and invisible characters, cut at ``limit`` characters with a note."""
    visible = _INVISIBLE.sub("", text)
    if len(visible) <= limit:
        return visible
    return f"{visible[:limit]}… [{len(visible) - limit} more characters]"


def untrusted(text: str, limit: int = MAX_UNTRUSTED_CHARS) -> str:
    """Text from data, models or logs, fenced so that nobody takes it for an instruction.

    A fence mark inside the text is broken up, so the text cannot close its own fence.
    """
    inner = clean(text, limit).replace("<<", "< <").replace(">>", "> >").replace(">>", "> >")
    return f"{FENCE_OPEN} {inner} {FENCE_CLOSE}"


@dataclass(frozen=True)
class Page:
    """A stretch of a long list.

    Attributes:
        shown: what is in it, as it is to be read.
        total: how many there are in all.
        following: the cursor of the next page; None on the last one.
    """

    shown: list[Any]
    total: int
    following: int | None


def page(items: Sequence[T], view: Callable[[T], Any], cursor: int, limit: int) -> Page:
    """The views of ``items`` from ``cursor`` on: at most ``limit``, and as many as fit into a result, one at least."""
    shown: list[Any] = []
    room = MAX_PAGE_CHARS
    for item in items[cursor : cursor + limit]:
        shown.append(tidy(view(item)))
        room -= len(_dump(shown[-1]))
        if room < 0 and len(shown) > 1:
            shown.pop()
            break
    end = cursor + len(shown)
    return Page(shown, len(items), end if end < len(items) else None)


def reply(fields: Mapping[str, Any], next_call: str, *pictures: ImageContent) -> CallToolResult:
    """A result: ``fields`` without the empty ones, ``next``, the call that usually follows, and pictures after them."""
    body = {key: tidy(value) for key, value in fields.items() if value not in (None, [], {}, "")}
    body["next"] = next_call
    fitted = _fit(body)
    text = TextContent(type="text", text=_dump(fitted))
    return CallToolResult(content=[text, *pictures], structured_content=fitted)


def with_next(result: CallToolResult, next_call: str) -> CallToolResult:
    """``result`` with another next call, in its text and in its fields."""
    before = str((result.structured_content or {}).get("next", ""))
    fields = {**(result.structured_content or {}), "next": next_call}
    if result.is_error:
        text = "".join(block.text for block in result.content if isinstance(block, TextContent))
        said = text.replace(f"\nnext: {before}\n", f"\nnext: {next_call}\n", 1)
    else:
        said = _dump(fields)
    others = [block for block in result.content if not isinstance(block, TextContent)]
    content = [TextContent(type="text", text=said), *others]
    return result.model_copy(update={"content": content, "structured_content": fields})


def refusal(error: FwError, tool: str, *, next_call: str = "") -> CallToolResult:
    """An error result: one paragraph and its facts in lines, and the same as fields."""
    hint = in_words_of(AGENT, error.hint)
    fields: dict[str, Any] = tidy({**error.to_dict(), "hint": hint or None, "details": _fenced(error.details) or None})
    fields["tool"] = tool
    fields["next"] = next_call or _next_call(error)
    said = FwError(error.code, error.message, not_done=error.not_done, hint=hint)
    if error.code in WORDS_OF_OUR_OWN or clean(hint) == fields["next"]:
        said.hint = ""
        fields.pop("hint", None)
    body = _fit(fields)
    facts = {key: body[key] for key in ("code", "retryable", "param", "requestId", "details") if key in body}
    text = f"{clean(said.text())}\nnext: {body['next']}\n{_dump(facts)}"
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=body, is_error=True)


def _fenced(value: Any, key: str = "") -> Any:
    """Details of an error: what a row or a log says is fenced, and of a long list only the beginning is shown."""
    if isinstance(value, Shown):
        return value
    if isinstance(value, dict):
        return {name: item for key, inner in value.items() for name, item in _fenced_entry(key, inner).items()}
    if isinstance(value, list):
        return [_fenced(item, key) for item in value]
    return untrusted(value, 300) if isinstance(value, str) and key in UNTRUSTED_DETAILS else value


def _fenced_entry(key: str, value: Any) -> dict[str, Any]:
    left = len(value) - MAX_DETAIL_ITEMS if isinstance(value, list) else 0
    if left <= 0:
        return {key: _fenced(value, key)}
    return {key: _fenced(value[:MAX_DETAIL_ITEMS], key), f"{key}NotShown": left}


def _next_call(error: FwError) -> str:
    """The error's own hint unless it speaks of the shell, else what usually helps with its code."""
    if error.code in WORDS_OF_OUR_OWN:
        return NEXT_CALL[error.code]
    if error.code in ("not_found", "failed_precondition"):
        job, ended = error.details.get("job"), error.details.get("endedJob")
        if isinstance(job, str):
            return f"job_wait(job_id='{clean(job)}'); then the same call with the model it makes"
        if isinstance(ended, str):
            again = "the call that started it goes on with it, given the same arguments"
            return f"job_get(job_id='{clean(ended)}', view='logs') shows why; {again}"
    hint = clean(in_words_of(AGENT, error.hint))
    of_this_surface = not any(mark in hint for mark in ("fw ", "/v1/"))
    if hint and of_this_surface:
        return hint
    return NEXT_CALL.get(error.code) or hint or "overview()"


def tidy(value: Any) -> Any:
    """``value`` as JSON values: strings cleaned and cut, floats rounded to six digits, mappings without None."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): tidy(item) for key, item in value.items() if item is not None}
    if isinstance(value, Iterable):
        return [tidy(item) for item in value]
    return value


def _fit(body: dict[str, Any]) -> dict[str, Any]:
    """``body`` small enough to send: the longest list loses its end until the whole fits, and a note says so."""
    cut: dict[str, int] = {}
    while len(_dump(body)) > MAX_RESULT_CHARS:
        holder, key = _longest_list(body)
        if holder is None:
            return {"note": "the result is too long to show", "next": body.get("next", "")}
        keep = len(holder[key]) // 2
        cut[key] = cut.get(key, 0) + len(holder[key]) - keep
        holder[key] = holder[key][:keep]
    if cut:
        how = "ask for less at once: a smaller limit, a cursor, grep, or detail='concise'"
        body["omitted"] = {**{key: f"{count} more entries" for key, count in cut.items()}, "how_to_see_them": how}
    return body


def _longest_list(node: Any) -> tuple[Any, Any]:
    """The mapping and key whose list is longest as text, or (None, None) when no list is left to cut."""
    best: tuple[int, Any, Any] = (0, None, None)
    pending = [node]
    while pending:
        here = pending.pop()
        items = here.items() if isinstance(here, dict) else enumerate(here)
        for key, value in items:
            if not isinstance(value, (dict, list)):
                continue
            pending.append(value)
            if isinstance(value, list) and isinstance(here, dict) and value and len(_dump(value)) > best[0]:
                best = (len(_dump(value)), here, key)
    return best[1], best[2]


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))

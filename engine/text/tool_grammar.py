"""Grammars of tool calls, from the same table that reads them: what they allow, the parser understands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.text.families import CallForm, Family
from engine.text.grammar import GrammarSpec, rule_of, with_bounded_space
from engine.text.schemas import parameters_schema
from engine.text.tools import Tool, types_of
from fw_sdk.types import FwError

NOT_IN_TAGS = ("pattern", "format")
HEADER = "TEXT: /(?s:.*)/\nSPACE: /[ \\t\\r\\n]{0,4}/\n"


@dataclass(frozen=True)
class Situation:
    """Where the answer begins.

    Attributes:
        special: ids of special tokens by their text; in a grammar they are not characters.
        thinking: whether the prompt ends inside reasoning.
        reasons: whether the model reasons at all, as far as its chat template tells.
    """

    special: Mapping[str, int]
    thinking: bool
    reasons: bool


def required_calls(family: Family, tools: Sequence[Tool], situation: Situation, *, parallel: bool) -> GrammarSpec:
    """One call or more, after reasoning if the model likes to.

    Raises:
        FwError: ``invalid_argument`` naming the schema's place that cannot be expressed, ``unimplemented`` for a form
            of calls that no grammar is written for.
    """
    writer = _Writer(family.form, situation.special)
    calls = writer.sequence(tools, parallel)
    thought = writer.thought(family, situation)
    return writer.grammar(f"start: {thought} {calls}")


def optional_calls(family: Family, tools: Sequence[Tool], situation: Situation, *, parallel: bool) -> GrammarSpec:
    """Any text, in which every call that is begun fits its schema; raises as ``required_calls``."""
    form = family.form
    writer = _Writer(form, situation.special)
    markers = "".join(family.reasoning)
    apart = bool(family.answer) or any(mark in markers for mark in situation.special)
    thought = writer.thought(family, situation) if apart else ""
    if family.answer:
        answer = f"{writer.literal(family.answer)} TEXT"
        return writer.grammar(f"start: {thought} ({writer.sequence(tools, parallel)} | {answer})")
    trigger = _trigger(family)
    if not trigger:
        first = re.escape((form.begin + form.open or "{")[0])
        writer.rule("plain", f"/([^{first}\\s](?s:.*))?/")
        return writer.grammar(f"start: {writer.sequence(tools, parallel)} | plain")
    writer.marker("head", "TEXT", trigger)
    rest = writer.sequence(tools, parallel, after=trigger)
    if form.begin or not parallel:
        return writer.grammar(f"start: {thought} (head {rest} | TEXT)")
    one = writer.sequence(tools, False, after=trigger)
    return writer.grammar(f"start: {thought} (head {one})* TEXT")


def calls_or_form(
    family: Family, tools: Sequence[Tool], situation: Situation, form: GrammarSpec, *, parallel: bool
) -> GrammarSpec:
    """Calls, or else an answer in the given form and nothing beside it; raises as ``required_calls``."""
    writer = _Writer(family.form, situation.special)
    thought = writer.thought(family, situation)
    answer = f"{writer.literal(family.answer)} {writer.rule('answer', rule_of(form))}"
    return writer.grammar(f"start: {thought} ({writer.sequence(tools, parallel)} | {answer})")


def sample_call(form: CallForm, name: str) -> str:
    """A call without arguments, as the form writes it."""
    bodies = {
        "object": json.dumps({form.name_key: name, form.arguments_key: {}}),
        "arguments": "{}",
        "tags": "",
        "python": "()",
        "dialect": "{}",
    }
    return form.begin + form.open.replace("{name}", name) + bodies[form.body] + form.close + form.end


def _trigger(family: Family) -> str:
    """The text that begins a call and nothing else; empty if calls have no marker of their own."""
    start = (family.form.begin + family.form.open).partition("{name}")[0]
    field = family.response.field("calls")
    literals = field.open.literals if field is not None and field.open is not None else ()
    marked = next((literal for literal in literals if start.startswith(literal)), None)
    return marked or (start.strip() if start.strip() not in ("", "[", "{") else "")


class _Writer:
    """Lark rules under construction."""

    def __init__(self, form: CallForm, special: Mapping[str, int]) -> None:
        self._form = form
        self._special = special
        self._split = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True)))) if special else None
        self._rules: list[str] = []

    def grammar(self, start: str) -> GrammarSpec:
        return GrammarSpec("lark", start + "\n" + HEADER + "\n".join(self._rules))

    def rule(self, name: str, body: str) -> str:
        self._rules.append(f"{name}: {body}")
        return name.partition("[")[0]

    def literal(self, text: str) -> str:
        """Lark for fixed text, in which special tokens stand as tokens."""
        parts: list[str] = []
        at = 0
        for match in self._split.finditer(text) if self._split is not None else ():
            parts += [_quoted(text[at : match.start()]), f"<[{self._special[match[0]]}]>"]
            at = match.end()
        return " ".join(part for part in [*parts, _quoted(text[at:])] if part)

    def marker(self, name: str, before: str, text: str) -> str:
        """A rule for the shortest text of the terminal ``before`` that ends with the marker ``text``."""
        if self._split is not None and self._split.search(text):
            return self.rule(name, f"{before} {self.literal(text)}")
        return self.rule(f"{name}[lazy]", f"{before} {_quoted(text)}")

    def thought(self, family: Family, situation: Situation) -> str:
        """Reasoning, which may be missing unless the prompt began it."""
        if not (situation.thinking or situation.reasons):
            return ""
        opening, closing = (mark.strip() for mark in family.reasoning)
        end = self.marker("thought_end", "TEXT", closing)
        return f"{end} SPACE" if situation.thinking else f"({self.literal(opening)} {end} SPACE)?"

    def sequence(self, tools: Sequence[Tool], parallel: bool, after: str = "") -> str:
        """Calls with what stands around them; ``after`` is what was written already."""
        form = self._form
        first = self._any(
            tools, (form.begin + form.open).removeprefix(after), "first" if after or form.begin else "call"
        )
        if not parallel or form.single:
            return f"{first} {self.literal(form.end)}"
        again = self._any(tools, form.between + form.open, "next")
        return f"{first} ({again})* {self.literal(form.end)}"

    def _any(self, tools: Sequence[Tool], opening: str, prefix: str) -> str:
        names = []
        for number, tool in enumerate(tools):
            name = f"{prefix}_{number}"
            if not any(rule.startswith(f"{name}:") for rule in self._rules):
                close = self.literal(self._form.close)
                start = self.literal(opening.replace("{name}", tool.name))
                self.rule(name, f"{start} {self._body(tool, number)} {close}")
            names.append(name)
        return f"({' | '.join(names)})"

    def _body(self, tool: Tool, number: int) -> str:
        name = f"body_{number}"
        if any(rule.startswith(f"{name}:") for rule in self._rules):
            return name
        schema = parameters_schema(tool.parameters)
        form = self._form
        if form.body == "object":
            properties = {
                form.name_key: {"const": tool.name},
                form.arguments_key: _rebased(schema, f"#/properties/{form.arguments_key}"),
            }
            schema = {"type": "object", "properties": properties, "required": list(properties)}
            return self.rule(name, _json({**schema, "additionalProperties": False}))
        if form.body == "arguments":
            return self.rule(name, _json(schema))
        if form.body == "dialect":
            raise FwError(
                "unimplemented",
                "Calls of this model cannot be constrained: it writes arguments in a form of its own.",
                not_done="Nothing was generated.",
                hint='use tool_choice "auto" without strict tools',
                param="tool_choice",
            )
        return self._arguments(schema, name, self._tag if form.body == "tags" else self._keyword)

    def _arguments(
        self, schema: dict[str, Any], name: str, write: Callable[[str, str, Any, dict[str, Any]], str]
    ) -> str:
        """Arguments one by one, in the schema's order; those not required may be missing."""
        required = schema.get("required", ())
        rules = [
            (write(f"{name}_{at}", key, part, schema), key in required)
            for at, (key, part) in enumerate(schema.get("properties", {}).items())
        ]
        if self._form.body == "tags":
            return self.rule(name, " ".join(rule if needed else f"({rule})?" for rule, needed in rules) or '""')
        rest, first = '""', '""'
        for at in range(len(rules) - 1, -1, -1):
            rule, needed = rules[at]
            comma = f'"," SPACE {rule}'
            first = self.rule(f"{name}_first_{at}", f"{rule} {rest}" + ("" if needed else f" | {first}"))
            rest = self.rule(f"{name}_rest_{at}", f"{comma} {rest}" if needed else f"({comma})? {rest}")
        return self.rule(name, f'"(" {first} ")"')

    def _keyword(self, name: str, key: str, part: Any, root: dict[str, Any]) -> str:
        """``key=value``."""
        if not key.isidentifier():
            raise _refused(key, "the model writes arguments as keywords, and this is no identifier")
        value = '("True" | "False")' if part == {"type": "boolean"} else _json(_part(part, key, root))
        return self.rule(name, f"{_quoted(key + '=')} {value}")

    def _tag(self, name: str, key: str, part: Any, root: dict[str, Any]) -> str:
        """A tag with the value in it: text as it is, everything else as JSON."""
        if re.search(r"[<>\n]", key):
            raise _refused(key, "the model writes arguments in tags, and this name cannot stand in one")
        opening, closing = self._form.tag.replace("{key}", key).split("{value}")
        types = types_of(part, root)
        if "string" not in types:
            return self.rule(name, f"{self.literal(opening)} {_json(_part(part, key, root))} {self.literal(closing)}")
        choices = _choices(part)
        if choices is not None:
            values = " | ".join(self.literal(choice + closing) for choice in choices)
            return self.rule(name, f"{self.literal(opening)} ({values})")
        least, most = _length(part, key)
        forbidden = "|".join(map(_in_regex, self._marks()))
        terminal = f"VALUE_{name.upper()}"
        self.rule(terminal, f"/(?s:.{{{least},{most}}})/ & ~/(?s:.*)({forbidden})(?s:.*)/")
        value = self.marker(f"{name}_value", terminal, closing)
        return self.rule(name, f"{self.literal(opening)} {value}")

    def _marks(self) -> list[str]:
        """Markers that may not stand inside a value."""
        form = self._form
        return sorted(set(re.findall(r"</?[\w|]+[=>]", form.open + form.close + form.tag)))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _in_regex(text: str) -> str:
    return re.escape(text).replace("/", "\\/")


def _json(schema: Any) -> str:
    return f"%json {json.dumps(with_bounded_space(schema))}"


def _rebased(schema: Any, prefix: str) -> Any:
    """The schema with its references made to start at ``prefix`` of a larger one."""
    if isinstance(schema, list):
        return [_rebased(one, prefix) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: prefix + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _rebased(value, prefix)
        for key, value in schema.items()
    }


def _part(part: Any, key: str, root: dict[str, Any]) -> Any:
    """One argument's schema on its own, with what it refers to."""
    if '"$ref"' not in json.dumps(part):
        return part
    escaped = key.replace("~", "~0").replace("/", "~1")
    return {"$ref": f"#/$defs/all/properties/{escaped}", "$defs": {"all": _rebased(root, "#/$defs/all")}}


def _choices(part: Any) -> list[str] | None:
    """The texts that a schema lists, if it lists any."""
    values = part.get("enum") if isinstance(part.get("enum"), list) else [part["const"]] if "const" in part else None
    return None if values is None else [value for value in values if isinstance(value, str)]


def _length(part: Mapping[str, Any], key: str) -> tuple[int, str]:
    """The lengths that a text may have, for a regular expression."""
    branches = [one for one in [*part.get("anyOf", ()), *part.get("oneOf", ())] if isinstance(one, Mapping)]
    text = next((one for one in branches if one.get("type") == "string"), part)
    for keyword in NOT_IN_TAGS:
        if keyword in text or "enum" in text or "$ref" in text:
            named = keyword if keyword in text else "a choice of choices"
            raise _refused(key, f"the model writes text without quotes, where {named} cannot be enforced")
    return int(text.get("minLength", 0)), str(int(text["maxLength"])) if "maxLength" in text else ""


def _refused(key: str, reason: str) -> FwError:
    return FwError(
        "invalid_argument",
        f"The argument {key!r:.100} cannot be constrained: {reason}.",
        not_done="Nothing was generated.",
        hint='change the schema there, or use tool_choice "auto" without strict tools',
        param=f"parameters.properties.{key[:100]}",
    )

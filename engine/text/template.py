"""Chat templates: Jinja source from a model file, which is untrusted, rendered in a sandbox with limits."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fw_sdk.types import FwError

MAX_SOURCE_CHARS = 1 << 20
MAX_TEXT_CHARS = 1 << 25


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, where a template cannot build huge values by multiplication either."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > MAX_TEXT_CHARS:
                raise SecurityError("a chat template may not build a value this large")
        if operator == "**" and isinstance(right, int) and right > 64:
            raise SecurityError("a chat template may not compute a number this large")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """``{% generation %}``, which marks assistant text for some trainers, renders what it encloses."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own protocol

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja source.
        special_tokens: names that the template may use (``bos_token`` …).

    Raises:
        FwError: ``model_unsupported`` if the source is too long or no Jinja.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        if len(source) > MAX_SOURCE_CHARS:
            raise _broken(f"it is longer than {MAX_SOURCE_CHARS} characters")
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise _broken(str(error)) from error
        self._special_tokens = special_tokens

    def render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool, tools: Any = None) -> str:
        """The text that the model sees.

        Raises:
            FwError: ``invalid_argument`` if the template refuses the messages, ``payload_too_large`` for a huge text.
        """
        variables = {
            **self._special_tokens,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        parts, length = [], 0
        try:
            for part in self._template.generate(variables):
                parts.append(part)
                length += len(part)
                if length > MAX_TEXT_CHARS:
                    raise FwError("payload_too_large", f"The chat is longer than {MAX_TEXT_CHARS} characters.")
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            raise _refused(error) from error
        return "".join(parts)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _broken(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This model's chat template cannot be used: {reason}.",
        not_done="Nothing was rendered.",
        hint="use another conversion of the model, or plain completions",
    )


def _refused(error: Exception) -> FwError:
    return FwError(
        "invalid_argument",
        f"The model's chat template does not accept these messages: {error}",
        not_done="Nothing was rendered.",
        hint="each message needs a role that the model knows and a string as content",
        param="messages",
    )

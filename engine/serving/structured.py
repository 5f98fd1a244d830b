"""What an answer must look like: OpenAI's ``response_format``, vLLM's ``structured_outputs``, as one grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictStr

from engine.serving.protocol import InferenceBody, wrong
from engine.text.grammar import GrammarSpec

Schema = dict[str, Any] | StrictBool


class JsonSchema(InferenceBody):
    """A schema with its name. It is always kept to, so ``strict`` changes nothing."""

    name: StrictStr | None = None
    description: StrictStr | None = None
    schema_: Schema | None = Field(default=None, alias="schema")
    strict: StrictBool | None = None


class ResponseFormat(InferenceBody):
    """``text``, ``json_object`` (with a ``schema``, as Fireworks has it, or without) or ``json_schema``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Schema | None = Field(default=None, alias="schema")

    def grammar(self) -> GrammarSpec | None:
        """The grammar, if it asks for one."""
        if self.type == "text":
            return None
        schema = self.json_schema.schema_ if self.json_schema is not None else self.schema_
        if self.type == "json_schema" and self.json_schema is None:
            raise wrong("response_format.json_schema", "'response_format.json_schema' is missing")
        return schema_grammar({"type": "object"} if schema is None else schema)


class StructuredOutputs(InferenceBody):
    """vLLM's way to say it; one of the fields."""

    json_: StrictStr | Schema | None = Field(default=None, alias="json")
    json_object: StrictBool | None = None
    regex: StrictStr | None = None
    choice: list[StrictStr] | None = Field(default=None, min_length=1)
    grammar: StrictStr | None = None

    def spec(self) -> GrammarSpec:
        """The grammar."""
        found: list[GrammarSpec] = []
        if self.json_ is not None:
            found.append(
                GrammarSpec("json_schema", self.json_) if isinstance(self.json_, str) else schema_grammar(self.json_)
            )
        if self.json_object:
            found.append(schema_grammar({"type": "object"}))
        if self.regex is not None:
            found.append(GrammarSpec("regex", self.regex))
        if self.choice is not None:
            found.append(GrammarSpec("regex", "|".join(f"({re.escape(text)})" for text in self.choice)))
        if self.grammar is not None:
            found.append(GrammarSpec("lark", self.grammar))
        if len(found) != 1:
            raise wrong("structured_outputs", f"'structured_outputs' has {len(found)} constraints; give one")
        return found[0]


def schema_grammar(schema: Mapping[str, Any] | bool) -> GrammarSpec:
    """A JSON schema as a grammar."""
    return GrammarSpec("json_schema", json.dumps(schema))


def one_grammar(form: GrammarSpec | None, structured: StructuredOutputs | None) -> GrammarSpec | None:
    """The grammar that a request asks for, in the protocol's own way (``form``) or in vLLM's, but not in both."""
    if structured is None:
        return form
    if form is not None:
        raise wrong("structured_outputs", "the answer's format and 'structured_outputs' both constrain the answer")
    return structured.spec()

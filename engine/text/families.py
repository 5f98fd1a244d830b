"""How families of models write reasoning and tool calls: one table for reading, writing and constraining them.

A row has the markers by which a chat template is recognised, the response template that reads an answer, and the form
in which calls are written. The first row whose marks all occur in the chat template is the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from engine.text.response import ResponseTemplate

Body = Literal["object", "arguments", "tags", "python", "dialect"]

THINK = {"open": "<think>", "close": "</think>"}
JSON = {"name": "json"}


@dataclass(frozen=True)
class CallForm:
    """How calls are written.

    Attributes:
        body: what a call is: ``object`` a JSON object with name and arguments; ``arguments`` the JSON object of the
            arguments alone, after the name; ``tags`` a tag per argument; ``python`` keyword arguments;
            ``dialect`` JSON with other quotes.
        open, close: around each call; ``{name}`` stands for the function.
        begin, end, between: around and between all of them.
        single: the chat template accepts only one call in an answer.
        name_key, arguments_key: of ``object``.
        tag: of ``tags``, an argument with ``{key}`` and ``{value}``.
    """

    body: Body
    open: str = ""
    close: str = ""
    begin: str = ""
    end: str = ""
    between: str = ""
    single: bool = False
    name_key: str = "name"
    arguments_key: str = "arguments"
    tag: str = ""


@dataclass(frozen=True)
class Family:
    """A way to write answers.

    Attributes:
        name: for people.
        marks: all of them occur in a chat template of this family.
        response: reads an answer.
        form: writes calls.
        reasoning: what stands around reasoning, for writing it.
        answer: what stands before an answer's text, if anything.
    """

    name: str
    marks: tuple[str, ...]
    response: ResponseTemplate
    form: CallForm
    reasoning: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    answer: str = ""


def _family(
    name: str,
    marks: tuple[str, ...],
    calls: Mapping[str, Any],
    form: CallForm,
    fields: Mapping[str, Any] | None = None,
    **more: Any,
) -> Family:
    """A row; text outside every marker is the answer, unless ``fields`` says otherwise."""
    rest = {"reasoning_content": THINK, "content": {}} if fields is None else fields
    return Family(name, marks, ResponseTemplate.of({"fields": {**rest, "tool_calls": calls}}), form, **more)


HERMES = _family(
    "hermes",
    ("<tool_call>",),
    {"open": "<tool_call>", "close": "</tool_call>", "content": "json"},
    CallForm("object", "<tool_call>\n", "\n</tool_call>", between="\n"),
)
"""Hermes, Qwen 2.5 and Qwen 3; also what models are taught whose template has no tools."""

HARMONY = _family(
    "harmony",
    ("<|channel|>", "<|message|>"),
    {
        "open_pattern": r"(?:<\|channel\|>commentary to=|to=)functions\.(?P<name>[\w.\-]+)[^<]*"
        r"(?:<\|channel\|>commentary[^<]*)?(?:<\|constrain\|>[^<]*)?<\|message\|>",
        "close": ["<|call|>", "<|end|>"],
        "content": "json",
        "transform": {"name": "{name}", "arguments": "{content}"},
    },
    CallForm(
        "arguments",
        "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
        "<|call|>",
        between="<|start|>assistant",
    ),
    fields={
        "reasoning_content": {"open": "<|channel|>analysis<|message|>", "close": "<|end|>"},
        "content": {
            "open": ["<|channel|>final<|message|>", "<|channel|>commentary<|message|>"],
            "close": ["<|return|>", "<|end|>"],
        },
    },
    reasoning=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    answer="<|channel|>final<|message|>",
)

DEEPSEEK = _family(
    "deepseek",
    ("<｜tool▁calls▁begin｜>",),
    {
        "open": "<｜tool▁calls▁begin｜>",
        "close": "<｜tool▁calls▁end｜>",
        "content": "calls",
        "content_args": {
            "pattern": r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?(?P<name>[\w.\-]+)"
            r"(?:<｜tool▁sep｜>|\n```json\n)(?P<arguments>.*?)(?:\n```)?<｜tool▁call▁end｜>",
            "arguments": JSON,
        },
    },
    CallForm(
        "arguments",
        "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        begin="<｜tool▁calls▁begin｜>",
        end="<｜tool▁calls▁end｜>",
    ),
)

DEEPSEEK_R1 = replace(
    DEEPSEEK,
    name="deepseek-r1",
    marks=(*DEEPSEEK.marks, "```json"),
    form=replace(
        DEEPSEEK.form,
        open="<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n",
        close="\n```<｜tool▁call▁end｜>",
        between="\n",
    ),
)

MISTRAL_ARGS = _family(
    "mistral-args",
    ("[TOOL_CALLS]", "[ARGS]"),
    {
        "open_pattern": r"\[TOOL_CALLS\](?P<name>[\w.\-]+)(?:\[CALL_ID\][A-Za-z0-9]*)?\[ARGS\]",
        "close_pattern": r"(?=\[TOOL_CALLS\])",
        "content": "json",
        "transform": {"name": "{name}", "arguments": "{content}"},
    },
    CallForm("arguments", "[TOOL_CALLS]{name}[ARGS]"),
    fields={"reasoning_content": {"open": "[THINK]", "close": "[/THINK]"}, "content": {}},
    reasoning=("[THINK]", "[/THINK]"),
)

MISTRAL = _family(
    "mistral",
    ("[TOOL_CALLS]",),
    {"open": "[TOOL_CALLS]", "content": "json-sequence"},
    CallForm("object", begin="[TOOL_CALLS] [", between=", ", end="]"),
)

QWEN_XML = _family(
    "qwen-xml",
    ("<tool_call>", "<function=", "<parameter="),
    {
        "open": "<tool_call>",
        "close": "</tool_call>",
        "content": "calls",
        "content_args": {
            "pattern": r"<function=(?P<name>[^>\n]+)>(?P<arguments>.*?)</function>",
            "arguments": {
                "name": "xml-inline",
                "args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"},
            },
        },
    },
    CallForm(
        "tags",
        "<tool_call>\n<function={name}>\n",
        "</function>\n</tool_call>",
        between="\n",
        tag="<parameter={key}>\n{value}\n</parameter>\n",
    ),
)

GLM = _family(
    "glm",
    ("<tool_call>", "<arg_key>"),
    {
        "open": "<tool_call>",
        "close": "</tool_call>",
        "content": "calls",
        "content_args": {
            "pattern": r"\A\s*(?P<name>[\w.\-]+)\s*(?P<arguments>(?:<arg_key>.*)?)\Z",
            "arguments": {
                "name": "xml-inline",
                "args": {
                    "tag_pattern": r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>",
                },
            },
        },
    },
    CallForm(
        "tags",
        "<tool_call>{name}\n",
        "</tool_call>",
        between="\n",
        tag="<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
    ),
)

GEMMA = _family(
    "gemma",
    ("_call>call:",),
    {
        "open_pattern": r"(?:<start_function_call>|<\|tool_call>)call:(?P<name>[\w.\-]+)(?=\{)",
        "close": ["<end_function_call>", "<tool_call|>"],
        "content": "json",
        "content_args": {
            "unquoted_keys": True,
            "string_delims": [["<escape>", "<escape>"], ['<|"|>', '<|"|>']],
        },
        "transform": {"name": "{name}", "arguments": "{content}"},
    },
    CallForm("dialect", "<|tool_call>call:{name}", "<tool_call|>"),
    fields={
        "reasoning_content": {"open": ["<|channel>thought\n", "<think>"], "close": ["<channel|>", "</think>"]},
        "content": {},
    },
    reasoning=("<|channel>thought\n", "\n<channel|>"),
)
"""FunctionGemma and Gemma 4; Gemma 3 has no form of its own."""

LLAMA3 = _family(
    "llama3",
    ("<|start_header_id|>", '"parameters": '),
    {
        "open_pattern": r'\A\s*(?:<\|python_tag\|>\s*)?(?=\{\s*"(?:name|type)"\s*:)',
        "content": "json-sequence",
        "content_args": {"known_only": True},
    },
    CallForm("object", single=True, arguments_key="parameters"),
)

PYTHONIC = _family(
    "pythonic",
    ("func_name1(",),
    {
        "open_pattern": r"\A\s*(?:<\|python_start\|>|<\|tool_call_start\|>)?\s*(?=\[\s*[A-Za-z_][\w.\-]*\()",
        "close": ["<|python_end|>", "<|tool_call_end|>"],
        "content": "python-call-list",
        "content_args": {"known_only": True},
    },
    CallForm("python", "{name}", begin="[", end="]", between=", "),
)

FAMILIES = (HARMONY, DEEPSEEK_R1, DEEPSEEK, MISTRAL_ARGS, MISTRAL, QWEN_XML, GLM, GEMMA, HERMES, LLAMA3, PYTHONIC)


def family_of(chat_template: str | None) -> Family | None:
    """The family whose marks a chat template has, or None."""
    source = chat_template or ""
    return next((family for family in FAMILIES if all(mark in source for mark in family.marks)), None)

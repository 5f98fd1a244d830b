"""What a tool grammar allows, the parser reads as valid calls; what it forbids is no call or a wrong one."""

import json

import jsonschema
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from engine.text import GrammarCompiler, GrammarSpec, Renderer, Tokenizer
from engine.text.families import FAMILIES
from engine.text.parser import OutputParser
from engine.text.schemas import parameters_schema
from engine.text.tests.chat_templates import TEMPLATES
from engine.text.tests.walks import CLOSING, fits, walk
from engine.text.tool_grammar import sample_call
from engine.text.tools import read_tools
from fw_sdk.types import FwError

PARAMETERS = {
    "type": "dict",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"type": "string", "enum": ["C", "F°"]},
        "exact": {"type": "boolean"},
        "share": {"type": "float"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "box": {"$ref": "#/$defs/Box"},
    },
    "required": ["city", "box"],
    "$defs": {
        "Box": {
            "type": "object",
            "properties": {"w": {"type": "number"}, "inner": {"$ref": "#/$defs/Box"}},
            "required": ["w"],
        }
    },
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "now"}},
]
SCHEMAS = {"get_weather": parameters_schema(PARAMETERS), "now": parameters_schema(None)}
CONSTRAINED = [name for name in TEMPLATES if not name.startswith("gemma")]
MARKERS = {
    "hermes": ["<tool_call>", "</tool_call>", "<think>", "</think>"],
    "deepseek": [
        "<think>",
        "</think>",
        *(f"<｜tool▁{what}▁{side}｜>" for what in ("call", "calls") for side in ("begin", "end")),
        "<｜tool▁sep｜>",
    ],
    "mistral": ["[TOOL_CALLS]"],
    "mistral-args": ["[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"],
    "glm": ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
    "harmony": [f"<|{name}|>" for name in ("channel", "message", "constrain", "call", "end", "start", "return")],
}


def made(folder, template, special=()):
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer = Tokenizer(backend, eos_ids=[2], chat_template=template)
    renderer = Renderer(tokenizer)
    return renderer, GrammarCompiler(tokenizer, tokenizer.vocab_size, tokenizer.eos_ids)


def read(renderer, text):
    """The message of an answer, whose calls must fit their schemas; None if a call is unknown or misread."""
    message = renderer.parse(text, TOOLS)
    for call in message.get("tool_calls", ()):
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])
    return message


def texts(renderer, compiler, spec, count):
    hints = (*CLOSING, "<|end|><|start|>assistant")
    found = [walk(compiler, spec, renderer.tokenizer, seed, max_tokens=600, hints=hints) for seed in range(count)]
    return [text for text in found if text is not None]


CASES = [(name, False) for name in CONSTRAINED] + [(name, True) for name in MARKERS]


@pytest.mark.parametrize(("name", "special"), CASES)
def test_what_required_allows_is_a_valid_call(tiny_llama_dir, name, special):
    renderer, compiler = made(tiny_llama_dir, TEMPLATES[name], MARKERS[name] if special else ())
    assert renderer.keep_special is special
    found = texts(renderer, compiler, renderer.tool_grammar(TOOLS, "required"), 12)
    assert len(found) >= 6
    called = [read(renderer, text)["tool_calls"] for text in found]
    assert {call["function"]["name"] for calls in called for call in calls} == {"get_weather", "now"}


@pytest.mark.parametrize("name", ["hermes", "qwen-xml", "deepseek", "pythonic"])
def test_one_call_of_the_named_function(tiny_llama_dir, name):
    renderer, compiler = made(tiny_llama_dir, TEMPLATES[name])
    choice = {"type": "function", "function": {"name": "get_weather"}}
    for text in texts(renderer, compiler, renderer.tool_grammar(TOOLS, choice), 6):
        assert [call["function"]["name"] for call in read(renderer, text)["tool_calls"]] == ["get_weather"]


@pytest.mark.parametrize(("name", "special"), CASES)
def test_auto_lets_text_be_and_holds_calls_to_their_schema(tiny_llama_dir, name, special):
    renderer, compiler = made(tiny_llama_dir, TEMPLATES[name], MARKERS[name] if special else ())
    spec = renderer.tool_grammar(TOOLS, "auto", strict=True)
    user = {"role": "user", "content": "Hi"}
    prompt = renderer.text([user], tools=TOOLS)

    def allows(message):
        """Whether the grammar allows what the template would write."""
        whole = renderer.text([user, message], add_generation_prompt=False, tools=TOOLS)
        text = whole.removeprefix(prompt).removesuffix("\n").removesuffix("<|im_end|>").removesuffix("<|return|>")
        return fits(compiler.compile(spec).matcher(), [*renderer.tokenizer.encode(text), renderer.tokenizer.eos_ids[0]])

    def calling(arguments, name="get_weather", content=""):
        call = {"id": "abcdefghi", "type": "function", "function": {"name": name, "arguments": arguments}}
        return {"role": "assistant", "content": content, "tool_calls": [call]}

    good = {"city": "Rome", "days": 3, "box": {"w": 1.5, "inner": {"w": 2}}}
    assert allows({"role": "assistant", "content": "Hello there, 1 < 2.\n"})
    assert allows({"role": "assistant", "content": "So.", "reasoning_content": "Well,\nmaybe."})
    assert allows(calling(good))
    assert allows(calling({}, "now"))
    assert not allows(calling({**good, "days": 15}))
    assert not allows(calling({"box": {"w": 1}}))
    assert not allows(calling({}, "fly"))
    if name not in ("llama3", "pythonic", "harmony"):
        assert allows(calling(good, content="Let me see."))
    found = texts(renderer, compiler, spec, 6)
    assert found
    for text in found:
        read(renderer, text)


def test_several_calls_only_if_parallel(tiny_llama_dir):
    renderer, compiler = made(tiny_llama_dir, TEMPLATES["hermes"])
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'

    def allows(spec, text):
        return fits(compiler.compile(spec).matcher(), [*renderer.tokenizer.encode(text), 2])

    for choice in ("required", "auto"):
        one, many = (renderer.tool_grammar(TOOLS, choice, parallel=parallel, strict=True) for parallel in (False, True))
        assert allows(one, call)
        assert allows(many, call)
        assert allows(many, f"{call}\n{call}")
        assert not allows(one, f"{call}\n{call}")
    assert not allows(renderer.tool_grammar(TOOLS, "required"), "No.")
    assert allows(renderer.tool_grammar(TOOLS, "required"), f"<think>\nhm\n</think>\n\n{call}")


@pytest.mark.parametrize(("name", "special"), [case for case in CASES if case != ("harmony", False)])
def test_calls_or_an_answer_in_a_form(tiny_llama_dir, name, special):
    renderer, compiler = made(tiny_llama_dir, TEMPLATES[name], MARKERS[name] if special else ())
    form = GrammarSpec("json_schema", '{"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}')
    found = texts(renderer, compiler, renderer.tool_grammar(TOOLS, "auto", form=form), 10)
    messages = [read(renderer, text) for text in found]
    assert any("tool_calls" in message for message in messages)
    answers = [message for message in messages if "tool_calls" not in message]
    assert answers
    assert all(isinstance(json.loads(message["content"])["x"], int) for message in answers)


def test_reasoning_that_the_prompt_began_or_ended(tiny_llama_dir):
    opens = TEMPLATES["hermes"].replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    renderer, compiler = made(tiny_llama_dir, opens)
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    for prefix, text, good in (
        ("", f"hm\n</think>\n\n{call}", True),
        ("", call, False),
        ("\n</think>\n\n", call, True),
        ("\n</think>\n\n", f"hm\n</think>\n\n{call}", False),
    ):
        matcher = compiler.compile(renderer.tool_grammar(TOOLS, "required", answer_prefix=prefix)).matcher()
        assert fits(matcher, [*renderer.tokenizer.encode(text), 2]) is good


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_every_family_reads_what_it_writes(family):
    parser = OutputParser(family.response, read_tools(TOOLS))
    events = [*parser.push(sample_call(family.form, "now")), *parser.flush()]
    assert [type(event).__name__ for event in events] == ["ToolCallStart", "ToolCallArguments", "ToolCallEnd"]


def test_a_response_template_of_its_own_that_no_grammar_fits(tiny_llama_dir):
    renderer, _ = made(tiny_llama_dir, TEMPLATES["hermes"])
    own = {"fields": {"content": {}, "tool_calls": {"open": "CALL", "close": "END", "content": "json"}}}
    renderer.tokenizer.response_template = own
    assert renderer.tool_grammar(TOOLS, "auto") is None
    with pytest.raises(FwError) as caught:
        renderer.tool_grammar(TOOLS, "required")
    assert caught.value.code == "unimplemented"


def test_when_anything_goes(tiny_llama_dir):
    renderer, _ = made(tiny_llama_dir, TEMPLATES["hermes"])
    assert renderer.tool_grammar(None, "required") is None
    assert renderer.tool_grammar(TOOLS, "none") is None
    assert renderer.tool_grammar(TOOLS, "auto") is None
    strict = [{"type": "function", "function": {"name": "now", "strict": True}}]
    assert renderer.tool_grammar(strict, "auto") is not None


@pytest.mark.parametrize(
    ("template", "tools", "choice", "code", "named"),
    [
        ("hermes", TOOLS, "fly", "invalid_argument", "fly"),
        ("gemma", TOOLS, "required", "unimplemented", "form of its own"),
        ("hermes", [{"type": "web_search"}], "auto", "invalid_argument", "web_search"),
        ("hermes", [{"type": "function", "function": {"name": "a b"}}], "auto", "invalid_argument", "a b"),
        ("hermes", [*TOOLS, TOOLS[0]], "auto", "invalid_argument", "get_weather"),
        (
            "hermes",
            [{"type": "function", "function": {"name": "f", "parameters": {"type": "date"}}}],
            "required",
            "invalid_argument",
            "date",
        ),
        (
            "qwen-xml",
            [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string", "pattern": "a+"}}}}],
            "required",
            "invalid_argument",
            "pattern",
        ),
    ],
)
def test_what_cannot_be_constrained_is_named(tiny_llama_dir, template, tools, choice, code, named):
    renderer, _ = made(tiny_llama_dir, TEMPLATES[template])
    with pytest.raises(FwError) as caught:
        renderer.tool_grammar(tools, choice)
    assert caught.value.code == code
    assert named in caught.value.message

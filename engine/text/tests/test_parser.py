"""Answers: what a chat template writes is read back, wherever the stream is cut, and what is no call stays text."""

import json
import sys
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.text import Renderer, Tokenizer
from engine.text.events import ReasoningDelta, TextDelta, ToolCallArguments, ToolCallEnd, ToolCallStart
from engine.text.tests.chat_templates import CALLS_ALONE, TEMPLATES

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "exact": {"type": "boolean"},
                    "share": {"type": "number"},
                    "where": {"type": "object"},
                    "tags": {"type": "array"},
                    "none": {"type": ["integer", "null"]},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t \"'\\{}[]()<>,;:=/"),
    max_size=24,
)
CLEAR = WORDS.filter(lambda text: "<" not in text and "[" not in text)
PLAIN = CLEAR.map(lambda text: text.strip(" \t\r\n")).filter(lambda text: text[:1] not in ("{", "["))
SCALARS = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
NESTED = st.recursive(
    SCALARS | CLEAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CLEAR, inner, max_size=3), max_leaves=6
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "city": CLEAR.map(lambda text: text.strip()),
        "days": st.integers(-(10**9), 10**9),
        "exact": st.booleans(),
        "share": st.floats(allow_nan=False, allow_infinity=False),
        "where": st.dictionaries(CLEAR, NESTED, max_size=3),
        "tags": st.lists(NESTED, max_size=3),
        "none": st.none() | st.integers(0, 9),
    },
)
CALLS = st.lists(st.tuples(st.just("get_weather"), ARGUMENTS) | st.tuples(st.just("now"), st.just({})), max_size=3)
ANSWERS = st.fixed_dictionaries({"content": PLAIN, "reasoning": PLAIN, "calls": CALLS})


@pytest.fixture(scope="module")
def renderers(tiny_llama_dir):
    peer = Tokenizer.load(tiny_llama_dir)
    return {
        name: Renderer(Tokenizer(peer._backend, eos_ids=peer.eos_ids, chat_template=source))
        for name, source in TEMPLATES.items()
    }


def message(answer):
    made = {"role": "assistant", "content": answer["content"]}
    if answer["reasoning"]:
        made["reasoning_content"] = answer["reasoning"]
    if answer["calls"]:
        made["tool_calls"] = [
            {"id": "abcdefghi", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for name, arguments in answer["calls"]
        ]
    return made


def written(renderer, made):
    """What the model would have had to generate."""
    user = {"role": "user", "content": "Hi"}
    prompt = renderer.text([user], tools=TOOLS)
    whole = renderer.text([user, made], add_generation_prompt=False, tools=TOOLS)
    assert whole.startswith(prompt)
    text = whole[len(prompt) :]
    for end in ("<|im_end|>\n", "<|return|>"):
        text = text.removesuffix(end)
    return text


def events_of(renderer, chunks, tools=TOOLS, **options):
    parser = renderer.output_parser(tools, **options)
    events = [event for chunk in chunks for event in parser.push(chunk)]
    return [*events, *parser.flush()], parser


def summary(events):
    """Content, reasoning and calls, and that the events come in order."""
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    calls, open_call = [], None
    for event in events:
        match event:
            case ToolCallStart(index, identifier, name):
                assert open_call is None
                assert index == len(calls)
                assert len(identifier) == 9
                open_call = [name, ""]
            case ToolCallArguments(index, piece):
                assert index == len(calls)
                open_call[1] += piece
            case ToolCallEnd(index):
                assert index == len(calls)
                calls.append((open_call[0], json.loads(open_call[1])))
                open_call = None
    assert open_call is None
    return text, thought, calls


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_family_is_recognised(renderers, name):
    assert renderers[name].tools_support == "template"
    assert renderers[name].family.name == name.removesuffix("4")
    assert renderers[name].keep_special is False


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=ANSWERS, data=st.data())
@example(
    answer={
        "content": "Let me see.",
        "reasoning": "I should\n\ncall it twice.",
        "calls": [("get_weather", {"city": "Zürich 'a' \"b\"\nc\\", "where": {"a": [1, {"b": None}]}}), ("now", {})],
    },
    data=None,
)
def test_what_a_template_writes_is_read_back(renderers, name, answer, data):
    if name in CALLS_ALONE and answer["calls"]:
        answer = {**answer, "content": "", "reasoning": ""}
    if name.startswith("gemma"):
        answer = {**answer, "calls": [(call, _flat(arguments)) for call, arguments in answer["calls"]]}
    text = written(renderers[name], message(answer))
    if data is None:
        chunks = list(text)
    else:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        chunks = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    events, parser = events_of(renderers[name], chunks)
    assert summary(events) == (answer["content"], answer["reasoning"], [(n, a) for n, a in answer["calls"]])
    assert parser.notes == []


def _flat(arguments):
    """Arguments that Gemma's dialect can express."""
    return {
        key: value
        for key, value in arguments.items()
        if key not in ("where", "tags") and not (isinstance(value, str) and set(value) & set('{}",:'))
    }


SAMPLE = {
    "content": "Sure.",
    "reasoning": "Think </tool hard.",
    "calls": [("get_weather", {"city": "A < B", "days": 3, "where": {"x": [True]}}), ("now", {}), ("get_weather", {})],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_cut_gives_the_same(renderers, name):
    sample = {**SAMPLE, "content": "", "reasoning": ""} if name in CALLS_ALONE else SAMPLE
    text = written(renderers[name], message(sample)) + "\nDone."
    whole = summary(events_of(renderers[name], [text])[0])
    for cut in range(len(text) + 1):
        assert summary(events_of(renderers[name], [text[:cut], text[cut:]])[0]) == whole
    assert summary(events_of(renderers[name], list(text))[0]) == whole


MARKED = [
    "<tool_call>", "</tool_call>", '{"name": "now", "arguments": {}}', '{"name": "now", "arguments": {"a": "</tool"}}',
    "<think>", "</think>", "<tool", "_call>", "\n", " ", "{", '"', "text", '{"name": 3}', "[1]",
]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(MARKED), max_size=14), data=st.data())
def test_noise_gives_the_same_at_every_cut(renderers, parts, data):
    text = "".join(parts)
    whole = summary(events_of(renderers["hermes"], [text])[0])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert summary(events_of(renderers["hermes"], chunks)[0]) == whole


CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
NOW = ("now", {})


@pytest.mark.parametrize(
    ("text", "content", "thought", "calls"),
    [
        ("plain text\n", "plain text\n", "", []),
        ("  \n", "  \n", "", []),
        ("a < b and <tool> and <tool_cal", "a < b and <tool> and <tool_cal", "", []),
        (f"{CALL}\n{CALL}", "", "", [NOW, NOW]),
        (f"one {CALL} two {CALL} three", "onetwothree", "", [NOW, NOW]),
        (CALL.removesuffix("\n</tool_call>"), "", "", [NOW]),
        ("<tool_call>{bad}</tool_call> after", "<tool_call>{bad}</tool_call> after", "", []),
        (f"<tool_call>{{bad}}</tool_call>{CALL}", "<tool_call>{bad}</tool_call>", "", [NOW]),
        (f"<tool_call>\n{CALL}", "<tool_call>", "", [NOW]),
        (f'<tool_call>{{"name": "x</tool_call>{CALL}', '<tool_call>{"name": "x</tool_call>', "", [NOW]),
        ("<tool_call>[]</tool_call>", "<tool_call>[]</tool_call>", "", []),
        ('<tool_call>{"name": "now", "arguments": {"a": NaN}}</tool_call>',) * 2 + ("", []),
        (
            '<tool_call>{"name": "now", "arguments": {"a": -1e999}}</tool_call>',
            "",
            "",
            [("now", {"a": -sys.float_info.max})],
        ),
        ('<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}</tool_call>', "", "", [("now", {"a": 1})]),
        (
            '<tool_call>{"name": "now", "arguments": {"a": "</tool_call>"}}</tool_call>',
            "",
            "",
            [("now", {"a": "</tool_call>"})],
        ),
        (f"<think>\nhm\n</think>\n\n{CALL}", "", "hm", [NOW]),
        (f"<think>hm {CALL} hm</think>answer", "answer", f"hm {CALL} hm", []),
        (f"<think>hm {CALL}", "", f"hm {CALL}", [NOW]),
        ("<think>unfinished", "", "unfinished", []),
        ("<tool_call>" + "[" * 5000, "<tool_call>" + "[" * 5000, "", []),
    ],
)
def test_what_is_read_as_what(renderers, text, content, thought, calls):
    for chunks in ([text], list(text)):
        events, parser = events_of(renderers["hermes"], chunks)
        shown, thoughts, found = summary(events)
        assert (shown.replace(" ", "") if "three" in text else shown, thoughts, found) == (content, thought, calls)
        assert bool(parser.notes) == ("<tool_call>" in content or (bool(calls) and "<tool_call>" in thought))


def test_text_streams_as_it_comes(renderers):
    parser = renderers["hermes"].output_parser(TOOLS)
    assert parser.push("Hello <") == [TextDelta("Hello")]
    assert parser.push("b>") == [TextDelta(" <b>")]
    assert parser.push(" <tool_ca") == []
    assert parser.push("ke>") == [TextDelta(" <tool_cake>")]
    assert parser.flush() == []


def test_without_tools_nothing_is_a_call(renderers):
    assert summary(events_of(renderers["hermes"], list(CALL), tools=None)[0]) == (CALL, "", [])


def test_reasoning_may_be_left_out(renderers):
    events, _ = events_of(renderers["hermes"], list("<think>hm</think>\n\nYes."), reasoning=False)
    assert summary(events) == ("Yes.", "", [])


def test_an_unknown_function_is_a_call_and_noted(renderers):
    events, parser = events_of(renderers["hermes"], ['<tool_call>{"name": "fly", "arguments": {}}</tool_call>'])
    assert summary(events)[2] == [("fly", {})]
    assert "fly" in parser.notes[0]


@pytest.mark.parametrize("name", CALLS_ALONE)
@pytest.mark.parametrize("text", ['{"name": "Ann", "age": 3}', "[fly(x=1)]", "[1, 2, 3]", '{"a": 1}', "{", "[now("])
def test_json_and_lists_that_are_no_calls_stay_text(renderers, name, text):
    assert summary(events_of(renderers[name], list(text))[0]) == (text, "", [])


def test_arguments_get_the_types_of_their_schema(renderers):
    text = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n3.0\n</parameter>\n"
        "<parameter=exact>\nTrue\n</parameter>\n<parameter=none>\nNone\n</parameter>\n<parameter=new>\n[1]\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    events, _ = events_of(renderers["qwen-xml"], list(text))
    assert summary(events)[2] == [("get_weather", {"city": "12", "days": 3, "exact": True, "none": None, "new": [1]})]


def test_reasoning_that_the_prompt_began(tiny_llama_dir):
    peer = Tokenizer.load(tiny_llama_dir)
    source = TEMPLATES["hermes"].replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}"
    )
    renderer = Renderer(Tokenizer(peer._backend, eos_ids=peer.eos_ids, chat_template=source))
    assert renderer.prefill.endswith("<think>\n")
    assert summary(events_of(renderer, list(f"hm\n</think>\n\nSo: {CALL}"))[0]) == ("So:", "hm", [NOW])


def test_a_models_own_response_template_wins(tiny_llama_dir):
    from transformers.utils.chat_parsing import parse_response

    own = {
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "thinking": {"open": "((", "close": "))"},
            "tool_calls": {
                "open_pattern": r"CALL (?P<name>\w+):",
                "close": "END",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
            "content": {},
        },
    }
    peer = Tokenizer.load(tiny_llama_dir)
    renderer = Renderer(Tokenizer(peer._backend, chat_template=TEMPLATES["hermes"], response_template=own))
    text = '((hm))yesCALL now:{"a": 1}ENDCALL get_weather:{}END'
    expected = parse_response(text, own, prefix="<|im_start|>assistant\n")
    shown, thought, calls = summary(events_of(renderer, list(text))[0])
    assert (shown, thought) == (expected["content"], expected["thinking"])
    assert calls == [(call["function"]["name"], call["function"]["arguments"]) for call in expected["tool_calls"]]


def test_harmony_may_name_the_function_before_the_channel(renderers):
    text = ' to=functions.now<|channel|>commentary json<|message|>{"a": 1}<|call|>'
    assert summary(events_of(renderers["harmony"], list(text))[0]) == ("", "", [("now", {"a": 1})])


@pytest.mark.parametrize(
    "text", ["<tool_call>" * 3000, '<tool_call>{"name": "' * 2000, "<" * 50000, "<think>" + CALL * 500]
)
def test_long_noise_does_not_take_long(renderers, text):
    begun = time.process_time()
    events_of(renderers["hermes"], [text[at : at + 5] for at in range(0, len(text), 5)])
    assert time.process_time() - begun < 5


def test_a_pattern_that_takes_for_ever_is_given_up(tiny_llama_dir):
    own = {"fields": {"tool_calls": {"open_pattern": "(a|a)*(a|a)*(a|a)*b", "close": "END"}, "content": {}}}
    peer = Tokenizer.load(tiny_llama_dir)
    renderer = Renderer(Tokenizer(peer._backend, chat_template=TEMPLATES["hermes"], response_template=own))
    events, parser = events_of(renderer, ["a" * 5000 + "c"])
    assert summary(events)[0] == "a" * 5000 + "c"
    assert "too long" in parser.notes[0]


def test_parse_gives_a_message_that_renders_again(renderers):
    renderer = renderers["hermes"]
    text = f"<think>\nhm\n</think>\n\nSo\n{CALL}"
    made = renderer.parse(text, TOOLS)
    assert written(renderer, made) == text

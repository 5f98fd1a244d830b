"""Renderings against transformers' apply_chat_template, and what training must share with sampling."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from engine.text import Renderer, Tokenizer
from engine.text.template import ChatTemplate
from engine.text.tests.strings import MIXED, STRINGS
from fw_sdk.types import FwError

CONTENT = st.one_of(MIXED, st.sampled_from(["", "\n\n", "\n\n\nx", "  y", "Paris."]))
CHATS = st.tuples(
    st.lists(st.just({"role": "system", "content": "Be brief."}), max_size=1),
    st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3),
).map(lambda parts: parts[0] + [turn(role, text) for pair in parts[1] for role, text in zip(ROLES, pair, strict=True)])
ROLES = ("user", "assistant")


def turn(role, content):
    return {"role": role, "content": content}


@pytest.fixture(scope="module")
def renderer(tiny_llama_dir):
    return Renderer.load(tiny_llama_dir)


def with_template(renderer, source):
    peer = renderer.tokenizer
    return Renderer(
        Tokenizer(peer._backend, eos_ids=peer.eos_ids, chat_template=source, special_tokens=peer.special_tokens)
    )


def test_ids_equal_transformers(renderer, tiny_llama_dir):
    peer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    for text in STRINGS:
        for messages in (
            [turn("user", text)],
            [turn("system", text), turn("user", "x"), turn("assistant", "Answer: " + text), turn("user", text)],
        ):
            for prompt in (True, False):
                expected = peer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
                assert renderer.render(messages, add_generation_prompt=prompt) == expected


TEMPLATES = {
    "tools": "{% for t in tools %}{{ t | tojson(indent=2) }}{% endfor %}{{ bos_token }}{{ messages[0]['content'] }}",
    "blocks": "{% for m in messages %}\n  {%- if loop.index > 1 %}{% break %}{% endif %}\n    {{ m.content | trim }}\n"
    "{% endfor %}\n{% generation %}x{% endgeneration %}{{ messages | length }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    "{{ {'é': [1, None, true]} | tojson }}{{ strftime_now('%Y') }}{{ eos_token }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_text_equals_transformers(renderer, tiny_llama_dir, name):
    peer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    tools = [{"type": "function", "function": {"name": "f", "description": "ü <&>", "parameters": {}}}]
    tools = tools if name == "tools" else None
    messages = [turn("user", " Hi\n"), turn("assistant", "yo")]
    expected = peer.apply_chat_template(messages, tools=tools, chat_template=TEMPLATES[name], tokenize=False)
    ours = with_template(renderer, TEMPLATES[name])
    assert ours.text(messages, add_generation_prompt=False, tools=tools) == expected


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=CHATS)
def test_what_is_trained_is_what_is_sampled(renderer, messages):
    """Ids are those of rendering; before each trained span stands the very prompt; the span is the turn alone."""
    ids, trained = renderer.render_training(messages)
    assert ids == renderer.render(messages, add_generation_prompt=False)
    assert len(ids) == len(trained)
    start = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = renderer.render(messages[:index])
        assert ids[: len(prompt)] == prompt
        assert not any(trained[start : len(prompt)])
        answer = [*renderer.tokenizer.encode(message["content"]), renderer.tokenizer.eos_ids[0]]
        start = len(prompt) + len(answer)
        assert ids[len(prompt) : start] == answer
        assert all(trained[len(prompt) : start])
    assert not any(trained[start:])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=CHATS)
def test_a_turn_is_a_prefix_of_the_next(renderer, messages):
    prompt = renderer.render(messages[:-1])
    assert renderer.render([*messages, turn("user", "more")])[: len(prompt)] == prompt


def test_an_answer_to_nothing_is_not_trained(renderer):
    ids, trained = renderer.render_training([turn("assistant", "Hello!"), turn("user", "Hi")])
    assert ids
    assert not any(trained)


def test_stop_ids(renderer):
    assert renderer.stop_ids == renderer.tokenizer.eos_ids == (2,)
    other = with_template(renderer, renderer.tokenizer.chat_template.replace("<|im_end|>", "<|endoftext|>"))
    assert other.stop_ids == (2, 0)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    ],
)
def test_templates_that_cannot_be_trained_on_are_refused(renderer, source):
    other = with_template(renderer, source)
    messages = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    assert other.render(messages, add_generation_prompt=False)
    with pytest.raises(FwError) as caught:
        other.render_training(messages)
    assert caught.value.code == "model_unsupported"


HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ 'a' * 10 ** 9 }}",
    "{{ 2 ** (10 ** 9) }}",
    "{% for i in range(10 ** 9) %}x{% endfor %}",
    "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
    "{{ raise_exception('no') }}",
    "{{ messages[0]['content'] + 1 }}",
    "{% include '/etc/passwd' %}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_templates_end_in_an_error(source):
    with pytest.raises(FwError) as caught:
        ChatTemplate(source, {}).render([turn("user", "x")], add_generation_prompt=True)
    assert caught.value.code in ("invalid_argument", "payload_too_large")


@pytest.mark.parametrize("source", ["{% if %}", "{{ a", "x" * (2**20 + 1)])
def test_broken_templates_are_refused_when_loaded(source):
    with pytest.raises(FwError) as caught:
        ChatTemplate(source, {})
    assert caught.value.code == "model_unsupported"


@pytest.mark.parametrize(
    "messages",
    [[{"content": "x"}], ["x"], [turn("user", None)], [turn("user", [{"type": "image_url"}])], [turn(3, "x")]],
)
def test_wrong_messages_are_named(renderer, messages):
    with pytest.raises(FwError) as caught:
        renderer.render(messages)
    assert caught.value.code == "invalid_argument"


def test_text_parts_are_joined(renderer):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert renderer.render([turn("user", parts)]) == renderer.render([turn("user", "ab")])


def test_a_model_without_template_says_so(renderer):
    with pytest.raises(FwError) as caught:
        with_template(renderer, None).render([turn("user", "x")])
    assert caught.value.code == "failed_precondition"


@pytest.mark.model
def test_starter_equals_transformers(starter_gguf, starter_peer):
    ours, peer = Renderer.load(starter_gguf), starter_peer
    messages = [turn("user", "Hi there"), turn("assistant", "Hello!"), turn("user", "And now?")]
    assert ours.render(messages) == peer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.stop_ids == (2,)

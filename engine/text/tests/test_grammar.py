"""Grammars: what they allow, what they refuse, and how long a hostile one may take."""

import json
import random
import re
import threading
import time

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.text import Tokenizer
from engine.text.grammar import MAX_SOURCE_BYTES, GrammarCompiler, GrammarSpec
from engine.text.tests.vocabularies import byte_fallback_tokenizer
from engine.text.tests.walks import allowed, walk
from fw_sdk.types import FwError

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "bé", '"']}, "maxItems": 3},
        "home": {"anyOf": [{"type": "null"}, {"type": "object", "additionalProperties": {"type": "number"}}]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def schema(value):
    return GrammarSpec("json_schema", json.dumps(value))


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir):
    return Tokenizer.load(tiny_llama_dir)


@pytest.fixture(scope="module")
def compiler(tokenizer):
    return GrammarCompiler(tokenizer, tokenizer.vocab_size + 37)


def test_what_a_schema_allows_validates(compiler, tokenizer):
    texts = [walk(compiler, schema(PERSON), tokenizer, seed) for seed in range(40)]
    done = [json.loads(text) for text in texts if text is not None]
    assert len(done) > 30
    for value in done:
        jsonschema.validate(value, PERSON)
    assert len({json.dumps(value) for value in done}) > 20


@pytest.mark.parametrize(
    ("spec", "holds"),
    [
        (GrammarSpec("json_object"), lambda text: isinstance(json.loads(text), dict)),
        (GrammarSpec("regex", r"[a-f]{2,5}(-\d+)?"), lambda text: re.fullmatch(r"[a-f]{2,5}(-\d+)?", text)),
        (GrammarSpec("lark", 'start: e\ne: "(" e ")" | "x"'), lambda text: re.fullmatch(r"\(*x\)*", text)),
    ],
)
def test_the_other_kinds(compiler, tokenizer, spec, holds):
    texts = [walk(compiler, spec, tokenizer, seed) for seed in range(10)]
    assert any(text is not None for text in texts)
    assert all(holds(text) for text in texts if text is not None)


def test_a_vocabulary_of_pieces_and_bytes():
    tokenizer = byte_fallback_tokenizer()
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    texts = [walk(compiler, schema({"enum": ["ab é", " 🚀"]}), tokenizer, seed) for seed in range(20)]
    assert {json.loads(text) for text in texts} == {"ab é", " 🚀"}


def test_the_end_is_allowed_only_at_the_end(compiler, tokenizer):
    matcher = compiler.compile(schema(PERSON)).matcher()
    end = tokenizer.eos_ids[0]
    for token in tokenizer.encode('{"name":"x","age":3'):
        assert end not in allowed(matcher, compiler.vocab_size)
        with pytest.raises(FwError):
            matcher.accept(end)
        matcher.accept(token)
        assert not matcher.finished
    matcher.accept(tokenizer.encode("}")[0])
    assert matcher.finished
    assert allowed(matcher, compiler.vocab_size).tolist() == [end]
    for _ in range(2):
        matcher.accept(end)
        matcher.rollback(2)
        assert not matcher.finished
        matcher.accept(tokenizer.encode("}")[0])
        assert matcher.finished


def test_special_tokens_and_padding_rows_are_never_text(compiler, tokenizer):
    matcher = compiler.compile(GrammarSpec("regex", "(?s:.*)")).matcher()
    options = set(allowed(matcher, compiler.vocab_size).tolist())
    assert options.isdisjoint(tokenizer.special_ids - set(tokenizer.eos_ids))
    assert max(options) < tokenizer.vocab_size
    assert len(options) > 200


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 25), data=st.data())
def test_rollback_restores_every_mask(compiler, seed, steps, data):
    rng, matcher = random.Random(seed), compiler.compile(schema(PERSON)).matcher()
    masks, tokens = [matcher.mask().tolist()], []
    for _ in range(steps):
        options = allowed(matcher, compiler.vocab_size)
        if not len(options) or (tokens and tokens[-1] in compiler.stop_ids):
            break
        tokens.append(int(rng.choice(options)))
        matcher.accept(tokens[-1])
        masks.append(None if tokens[-1] in compiler.stop_ids else matcher.mask().tolist())
    back = data.draw(st.integers(0, len(tokens)))
    matcher.rollback(back)
    for at in range(len(tokens) - back, len(tokens)):
        assert matcher.mask().tolist() == masks[at]
        matcher.accept(tokens[at])


def test_a_refused_token_changes_nothing(compiler, tokenizer):
    matcher = compiler.compile(schema(PERSON)).matcher()
    before = matcher.mask().tolist()
    with pytest.raises(FwError, match="not allowed"):
        matcher.accept(tokenizer.encode("x")[0])
    assert matcher.mask().tolist() == before
    matcher.accept(tokenizer.encode("{")[0])


def test_matchers_of_one_grammar_are_apart(compiler, tokenizer):
    grammar = compiler.compile(schema(PERSON))
    one, other = grammar.matcher(), grammar.matcher()
    before = other.mask().tolist()
    one.accept(tokenizer.encode("{")[0])
    assert other.mask().tolist() == before
    assert compiler.compile(schema(PERSON)) is grammar


REFUSED = [
    (schema({"type": "object", "not": {"type": "string"}}), "not"),
    (schema({"properties": {"a": {"if": {}}}}), "if"),
    (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
    (schema({"type": "string", "format": "colour"}), "colour"),
    (schema({"type": "string", "pattern": "(?=a)"}), "look-around"),
    (schema({"type": "strin"}), "strin"),
    (schema({"$ref": "#/$defs/none"}), "none"),
    (schema({"$ref": "https://example.com/x"}), "example.com"),
    (schema({"type": "object", "properties": {"n": {"type": "integer", "enum": ["1"]}}, "required": ["n"]}), "'n'"),
    (GrammarSpec("json_schema", "false"), "false"),
    (GrammarSpec("json_schema", "{"), "JSON"),
    (GrammarSpec("json_schema", "[1]"), "list"),
    (GrammarSpec("json_schema", '{"a":' * 70 + "1" + "}" * 70), "64"),
    (GrammarSpec("json_schema", '"' + "x" * MAX_SOURCE_BYTES + '"'), "bytes"),
    (GrammarSpec("json_schema", '{"const": "\ud800"}'), ""),
    (schema({"type": "object", "properties": {f"p{n}": {} for n in range(501)}}), "501"),
    (GrammarSpec("regex", "(a"), "unclosed"),
    (GrammarSpec("lark", "start: foo"), "foo"),
    (GrammarSpec("lark", 'begin: "a"'), "start"),
]


@pytest.mark.parametrize(("spec", "named"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_is_not_supported_is_named(compiler, spec, named):
    with pytest.raises(FwError) as caught:
        compiler.compile(spec)
    assert caught.value.code == "invalid_argument"
    assert named in caught.value.message
    assert len(caught.value.message) < 400


def test_brackets_in_texts_do_not_nest(compiler):
    sad = [f":({number}" for number in range(100)]
    compiler.compile(schema({"enum": sad}))
    compiler.compile(GrammarSpec("lark", "start: " + " | ".join(map(json.dumps, sad)) + r" | /\(/"))
    for source in ("start: " + "(" * 70 + '"a"' + ")" * 70, "start: " + "[" * 9000):
        with pytest.raises(FwError):
            compiler.compile(GrammarSpec("lark", source))


HOSTILE = {
    "patterns that meet": schema(
        {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{n}}}"} for n in range(1, 30)]}
    ),
    "repeats of repeats": GrammarSpec("regex", "((a{100}){100}){100}"),
    "a long forced text": GrammarSpec("regex", "a{100000}"),
    "doubling references": schema(
        {"$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {}}}
        | {"$ref": "#/$defs/d0"}
    ),
    "choices of choices": schema(
        {"allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(24)]}
    ),
    "an ambiguous grammar": GrammarSpec("lark", 'start: s\ns: s s | "a" | '),
    "divisors": schema({"allOf": [{"type": "integer", "multipleOf": number} for number in (7919, 7907, 7901)]}),
    "itself": schema({"$ref": "#"}),
    "a row of choices": GrammarSpec(
        "lark", "start: " + " | ".join(f"r{n}" for n in range(3000)) + "".join(f'\nr{n}: "a{n}"' for n in range(3000))
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_costs_its_budget_and_fails_alone(compiler, tokenizer, name):
    begun = time.process_time()
    try:
        matcher = compiler.compile(HOSTILE[name]).matcher()
        for _ in range(20):
            options = allowed(matcher, compiler.vocab_size)
            if not len(options):
                break
            matcher.accept(int(options[-1]))
    except FwError as error:
        assert error.code == "invalid_argument"
    assert time.process_time() - begun < 5
    good = compiler.compile(schema(PERSON)).matcher()
    good.accept(tokenizer.encode("{")[0])


def test_a_grammar_that_a_text_wore_out_is_compiled_anew(compiler, tokenizer):
    spec = GrammarSpec("regex", r"((a|b|c)*a(a|b|c){20}x|(.*b.{30}y)|(.*c.{17}z.{9}d))*")
    worn, rng = compiler.compile(spec), random.Random(1)
    with pytest.raises(FwError, match="too many states"):
        for _ in range(2000):
            matcher = worn.matcher()
            for _ in range(40):
                matcher.mask()
                matcher.accept(rng.choice(tokenizer.encode("abcxyzd")))
    assert worn.spent
    fresh = compiler.compile(spec)
    assert fresh is not worn
    assert len(allowed(fresh.matcher(), compiler.vocab_size)) > 1


def test_threads_share_a_compiler(compiler):
    specs, found = [schema({"const": number % 5}) for number in range(20)], {}

    def one(number):
        found[number] = compiler.compile(specs[number])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] is found[number % 5] for number in range(20))

"""Grammars that the next token must fit: JSON schema, JSON object, regex, Lark, through llguidance.

A grammar comes from whoever sends a request, so compiling it has a budget. The length and the nesting of the source are
bounded first. llguidance counts most of its own work (fuel for regexes, symbols, lexer states) and gives up by itself.
What it does not count is tried first in a process that can be stopped (``engine.text.trial``). A grammar that goes over
a limit fails its own request only.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import llguidance
import numpy as np
from numpy.typing import NDArray

from engine.text.tokenizer import Tokenizer
from engine.text.trial import LIMITS, TRIAL_S, compiles_in_time
from fw_sdk.types import FwError

GrammarKind = Literal["json_schema", "json_object", "regex", "lark"]

MAX_SOURCE_BYTES = 256 << 10
MAX_NESTING = 64
CACHED_GRAMMARS = 64
MAX_PROPERTIES = 500
ERROR_CHARS = 300
EXCERPT = re.compile(r"\s+\d+ \| ")
LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/')
PREFIX = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: |invalid regex )")
ANY_OBJECT = '{"type":"object"}'
OPTIONS = '%llguidance {"no_forcing": true}\n'  # forced text would be tokenised anew at every step, however long it is
SPACE = {"whitespace_pattern": r"[ \n\r\t]{1,40}"}
UNTRIED_BYTES = 16 << 10
TRIED_KEYWORDS = ('"pattern', '"allOf"', '"multipleOf"', '"format"')


@dataclass(frozen=True)
class GrammarSpec:
    """What the generated text must be.

    Attributes:
        kind: how to read ``source``.
        source: the JSON schema, the regular expression or the Lark grammar (llguidance's dialect); empty for
            ``json_object``, which is any JSON object.
    """

    kind: GrammarKind
    source: str = ""


class GrammarCompiler:
    """Compiles grammars for one vocabulary; safe to use from several threads, one compilation at a time.

    Args:
        tokenizer: of the model.
        vocab_size: rows of the model's logits; ids that the tokenizer does not have are never allowed.
        stop_ids: ids that end a turn, allowed where the grammar may end; the tokenizer's own if empty.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Sequence[int] = ()) -> None:
        self.vocab_size = vocab_size
        self.stop_ids = tuple(number for number in stop_ids or tokenizer.eos_ids if number < vocab_size)
        self._tokenizer = tokenizer
        self._known: OrderedDict[GrammarSpec, Grammar | FwError] = OrderedDict()
        self._turn = threading.Lock()

    def compile(self, spec: GrammarSpec) -> Grammar:
        """The compiled grammar; blocks for up to about a second, so call it away from the engine's loop.

        Raises:
            FwError: ``invalid_argument`` if the source is no such grammar, uses a keyword that is not supported (which
                is named) or needs more work than the budget allows.
        """
        with self._turn:
            known = self._known.get(spec)
            if known is None or (isinstance(known, Grammar) and known.spent):
                known = self._known[spec] = self._compile(spec)
                if len(self._known) > CACHED_GRAMMARS:
                    self._known.popitem(last=False)
            self._known.move_to_end(spec)
        if isinstance(known, FwError):
            raise known
        return known

    def _compile(self, spec: GrammarSpec) -> Grammar | FwError:
        """A grammar or why there is none: refusals are remembered too."""
        try:
            source = _llguidance_source(spec)
        except FwError as error:
            return error
        if _wants_trial(spec) and not compiles_in_time(source):
            return _refused(spec.kind, f"compiling it takes more than {TRIAL_S} s or too much memory")
        matcher = llguidance.LLMatcher(self._vocabulary, source, log_level=0, limits=LIMITS)
        first = matcher.deep_copy()
        if not matcher.is_error():
            first.compute_bitmask()  # the first step has its own limits, and is then known
        if first.is_error():
            return _refused(spec.kind, first.get_error())
        return Grammar(spec, matcher, self)

    @cached_property
    def _vocabulary(self) -> llguidance.LLTokenizer:
        if not self.stop_ids:
            raise FwError(
                "model_unsupported",
                "This model has no token that ends a text, so a grammar could not end either.",
                not_done="Nothing was generated.",
                hint="leave the grammar out, or use a model whose tokenizer names its end-of-text token",
            )
        wrapper = llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer, self.vocab_size, self.stop_ids))
        return llguidance.LLTokenizer(wrapper, n_vocab=self.vocab_size, eos_token=list(self.stop_ids))


@dataclass(frozen=True, eq=False)
class Grammar:
    """A compiled grammar, shared by all requests that use it.

    Attributes:
        spec: what it was compiled from.
    """

    spec: GrammarSpec
    _start: llguidance.LLMatcher
    _compiler: GrammarCompiler
    _over: threading.Event = field(default_factory=threading.Event, init=False)

    @property
    def spent(self) -> bool:
        """Whether a text went over a limit of what all its matchers share; the compiler then compiles it anew."""
        return self._over.is_set()

    def matcher(self) -> GrammarMatcher:
        """A matcher at the beginning of the text."""
        return GrammarMatcher(self._start.deep_copy(), self._compiler, self._over)


class GrammarMatcher:
    """Where one text stands in a grammar. Not safe for several threads at a time."""

    def __init__(self, matcher: llguidance.LLMatcher, compiler: GrammarCompiler, over: threading.Event) -> None:
        self._matcher = matcher
        self._over = over
        self._words = (compiler.vocab_size + 31) // 32
        self._stop_ids = compiler.stop_ids
        self._ends = 0  # stop tokens after the end, which llguidance accepts without counting them

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self) -> NDArray[np.uint32]:
        """Which tokens may come next: [ceil(vocab / 32)] words, bit t % 32 of word t // 32 for token t.

        Raises:
            FwError: ``invalid_argument`` if finding out takes more work than the budget allows.
        """
        raw = self._matcher.compute_bitmask()
        self._check()
        return np.frombuffer(raw, dtype=np.uint32, count=self._words)

    def accept(self, token: int) -> None:
        """Append a token.

        Raises:
            FwError: ``invalid_argument`` if the grammar does not allow it here; the matcher stays where it was.
        """
        if self._matcher.is_stopped() and token in self._stop_ids:
            self._ends += 1
            return
        if self._matcher.try_consume_tokens([token]) == 1:
            return
        self._check()
        raise _failed(f"token {token} is not allowed at this place")

    def rollback(self, count: int) -> None:
        """Take the last ``count`` accepted tokens back."""
        ends = min(count, self._ends)
        self._ends -= ends
        if count > ends and not self._matcher.rollback(count - ends):
            raise _failed(self._matcher.get_error())

    def _check(self) -> None:
        if self._matcher.is_error():
            self._over.set()
            raise _failed(self._matcher.get_error())


class _Vocabulary:
    """What llguidance asks of a tokenizer: the bytes of each id, and which ids are special."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        special = tokenizer.special_ids | frozenset(stop_ids)
        self.eos_token_id, *_ = stop_ids
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(number for number in special if number < vocab_size)
        self.tokens = [tokenizer.id_to_bytes(number) for number in range(vocab_size)]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _llguidance_source(spec: GrammarSpec) -> str:
    """The grammar in llguidance's own form."""
    if spec.kind == "lark":
        _check_size(spec)
        _check_nesting(spec.source)
        return str(llguidance.LLMatcher.grammar_from_lark(f"{spec.source}\n{OPTIONS}"))
    return str(llguidance.LLMatcher.grammar_from_lark(f"{OPTIONS}start: {rule_of(spec)}"))


def rule_of(spec: GrammarSpec) -> str:
    """The body of a Lark rule for a grammar that is not Lark itself.

    Raises:
        FwError: ``invalid_argument`` if the source is too long or no JSON, ``unimplemented`` for Lark.
    """
    _check_size(spec)
    if spec.kind == "lark":
        raise FwError(
            "unimplemented",
            "A Lark grammar cannot be part of another grammar.",
            not_done="Nothing was generated.",
            hint="use a JSON schema or a regular expression, or leave out the tools",
        )
    if spec.kind == "regex":
        grammar = json.loads(llguidance.LLMatcher.grammar_from_regex(spec.source))["grammars"][0]["lark_grammar"]
        return str(grammar).removeprefix("start:").strip()
    schema = _parsed(spec.source if spec.kind == "json_schema" else ANY_OBJECT)
    return f"%json {json.dumps(with_bounded_space(schema))}"


def _check_size(spec: GrammarSpec) -> None:
    size = len(spec.source.encode("utf-8", "surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        raise _refused(spec.kind, f"it has {size} bytes, {MAX_SOURCE_BYTES} are allowed")


def with_bounded_space(schema: Any) -> Any:
    """The schema with a bound on white space between tokens: a model could go on writing it for ever."""
    if not isinstance(schema, dict):
        return {"x-guidance": SPACE} if schema is True else schema
    return {"x-guidance": SPACE, **schema}


def _wants_trial(spec: GrammarSpec) -> bool:
    """Whether compiling may take long: plain JSON schemas of moderate size do not."""
    if spec.kind in ("regex", "lark") or len(spec.source) > UNTRIED_BYTES:
        return True
    return any(keyword in spec.source for keyword in TRIED_KEYWORDS)


def _parsed(source: str) -> Any:
    try:
        schema = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise _refused("json_schema", f"it is no JSON: {error}") from error
    if not isinstance(schema, (dict, bool)):
        raise _refused("json_schema", f"a schema is an object, got {type(schema).__name__}")
    _check_schema(schema)
    return schema


def _check_schema(node: Any, depth: int = 0) -> None:
    """Bound what llguidance does not: its own depth, and time that grows with the square of an object's properties."""
    if depth > MAX_NESTING:
        raise _refused("json_schema", f"it nests deeper than {MAX_NESTING} levels")
    if isinstance(node, dict):
        properties = node.get("properties")
        if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:
            raise _refused("json_schema", f"an object has {len(properties)} properties, {MAX_PROPERTIES} are allowed")
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _check_schema(inner, depth + 1)


def _check_nesting(source: str) -> None:
    """Brackets outside of literals may nest ``MAX_NESTING`` deep."""
    depth = 0
    for character in LITERAL.sub("", source):
        if character in "{[(":
            depth += 1
            if depth > MAX_NESTING:
                raise _refused("lark", f"it nests deeper than {MAX_NESTING} brackets")
        elif character in "}])":
            depth -= 1


def _short(reason: str) -> str:
    """llguidance's words without its excerpt of the source."""
    words = PREFIX.sub("", EXCERPT.split(reason.strip())[0]).replace("<non-verbose/>", "")
    return " ".join(words.split())[:ERROR_CHARS].rstrip(".")


def _refused(kind: GrammarKind, reason: str) -> FwError:
    what = {
        "json_schema": "JSON schema",
        "json_object": "JSON object",
        "regex": "regular expression",
        "lark": "grammar",
    }
    return FwError(
        "invalid_argument",
        f"The {what[kind]} cannot be used: {_short(reason)}.",
        not_done="Nothing was generated.",
        hint="leave out or replace the part that is named; other requests are not affected",
    )


def _failed(reason: str) -> FwError:
    return FwError(
        "invalid_argument",
        f"The grammar does not go on: {_short(reason)}.",
        not_done="The text ends here.",
        hint="simplify the grammar",
    )

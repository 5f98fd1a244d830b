"""Between messages, text and token ids: tokenizer, chat template, grammars, streaming. Imports no torch."""

from engine.text.grammar import Grammar, GrammarCompiler, GrammarMatcher, GrammarSpec
from engine.text.renderer import Renderer
from engine.text.streaming import StopMatcher, StreamDecoder
from engine.text.tokenizer import Tokenizer

__all__ = [
    "Grammar",
    "GrammarCompiler",
    "GrammarMatcher",
    "GrammarSpec",
    "Renderer",
    "StopMatcher",
    "StreamDecoder",
    "Tokenizer",
]

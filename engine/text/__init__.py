"""Between messages, text and token ids: tokenizer, chat template, streaming. Imports no torch."""

from engine.text.renderer import Renderer
from engine.text.streaming import StopMatcher, StreamDecoder
from engine.text.tokenizer import Tokenizer

__all__ = ["Renderer", "StopMatcher", "StreamDecoder", "Tokenizer"]

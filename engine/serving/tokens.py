"""Text to token ids and back, in the shapes of vLLM's ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, StrictBool, StrictStr

from engine.serving.openai_chat import ChatMessage
from engine.serving.protocol import InferenceBody, TokenIds, parse_inference, wrong
from engine.serving.served import Served


class TokenizeBody(InferenceBody):
    """Body of ``POST /tokenize``: a text, or messages that are rendered first."""

    model: StrictStr | None = None
    prompt: StrictStr | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    add_generation_prompt: StrictBool = True
    return_token_strs: StrictBool = False


class DetokenizeBody(InferenceBody):
    """Body of ``POST /detokenize``."""

    model: StrictStr | None = None
    tokens: TokenIds


def tokenize(served: Served, value: Any) -> dict[str, Any]:
    """The ids of a text or of a conversation."""
    body = parse_inference(TokenizeBody, value, {})
    renderer = served.renderer
    if (body.prompt is None) == (body.messages is None):
        raise wrong("prompt", "send either 'prompt' or 'messages'")
    if body.prompt is not None:
        ids = renderer.tokenizer.encode(body.prompt)
    else:
        messages = [message.plain() for message in body.messages or ()]
        ids = renderer.render(messages, add_generation_prompt=body.add_generation_prompt)
    texts = [renderer.tokenizer.token(number) for number in ids] if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": served.context, "tokens": ids, "token_strs": texts}


def detokenize(served: Served, value: Any) -> dict[str, Any]:
    """The text of ids, special tokens included."""
    body = parse_inference(DetokenizeBody, value, {})
    size = served.renderer.tokenizer.vocab_size
    if any(not 0 <= number < size for number in body.tokens):
        raise wrong("tokens", f"a token id is outside 0 to {size - 1}")
    return {"prompt": served.renderer.tokenizer.decode(body.tokens)}

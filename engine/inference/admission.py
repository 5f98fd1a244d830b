"""What a request must be like to be let in."""

from __future__ import annotations

from engine.inference.request import Request
from fw_sdk.types import FwError


def check_prompt(request: Request, context: int, vocabulary: int) -> None:
    """Raise unless the prompt has tokens, all of them known, and leaves room for an answer.

    Args:
        request: with the prompt.
        context: tokens that prompt and answer may have together.
        vocabulary: tokens there are.

    Raises:
        FwError: ``invalid_argument`` or ``context_length_exceeded``.
    """
    length = len(request.prompt)
    if length == 0:
        raise _wrong("invalid_argument", "the prompt is empty")
    if length >= context:
        message = f"the prompt has {length} tokens; the context has room for {context}, the answer included"
        raise _wrong("context_length_exceeded", message, "shorten the prompt")
    if min(request.prompt) < 0 or max(request.prompt) >= vocabulary:
        raise _wrong("invalid_argument", f"the prompt has a token id outside 0 to {vocabulary - 1}")


def _wrong(code: str, message: str, hint: str = "") -> FwError:
    return FwError(code, message, not_done="nothing was generated", hint=hint, param="prompt")

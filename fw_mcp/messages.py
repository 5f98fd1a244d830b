"""One JSON-RPC message as a client sends it: read strictly, or refused with an error that says what is wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import pydantic_core
from mcp.types import INVALID_REQUEST, PARSE_ERROR, JSONRPCMessage, jsonrpc_message_adapter
from pydantic import ValidationError

from fw_sdk.types import FwError

BOM = b"\xef\xbb\xbf"
LARGEST_ID = 2**63
HINT = 'send one object a message, in UTF-8: {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}'


class Malformed(Exception):
    """A message that cannot be taken.

    Attributes:
        code: JSON-RPC's.
        error: ours, which the reply carries as its data.
        identifier: the request's own id where it can be told, else None.
    """

    def __init__(self, code: int, error: FwError, identifier: Any = None) -> None:
        super().__init__(error.message)
        self.code = code
        self.error = error
        self.identifier = identifier

    def reply(self) -> bytes:
        """The answer as JSON in ASCII on one line."""
        return reply_to(self.identifier, self.code, self.error)


def reply_to(identifier: Any, code: int, error: FwError) -> bytes:
    """A JSON-RPC error with our fields as its data, as JSON in ASCII on one line."""
    said = {"code": code, "message": error.message, "data": error.to_dict()}
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "error": said}).encode()


def read(data: bytes) -> JSONRPCMessage:
    """The message that ``data`` is.

    Raises:
        Malformed: it is not JSON in UTF-8, or not one message of JSON-RPC 2.0 as MCP has it.
    """
    if data.startswith(BOM):
        raise _unparsed(data, "it begins with a byte order mark")
    try:
        value = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise _unparsed(data, str(error)) from None
    identifier = _checked_id(value)
    try:
        return jsonrpc_message_adapter.validate_python(value, by_name=False)
    except (ValidationError, RecursionError):
        raise _invalid(_problem(value), identifier) from None


def _checked_id(value: Any) -> Any:
    """The id of a request or reply, which is a string or an integer."""
    if isinstance(value, list):
        raise _invalid("it is a batch; send its messages one by one")
    if not isinstance(value, dict):
        raise _invalid(f"it is {_kind(value)}, not an object")
    identifier = value.get("id")
    about_no_request = identifier is None and "error" in value and "method" not in value
    if "id" not in value or isinstance(identifier, str) or about_no_request:
        return identifier
    if isinstance(identifier, int) and not isinstance(identifier, bool) and abs(identifier) < LARGEST_ID:
        return identifier
    raise _invalid(f"its id is {_kind(identifier)}, not a string or an integer of 64 bits", _usable_id(value))


def _usable_id(value: Any) -> Any:
    """What a reply can carry as the id of a refused message, so that its sender finds it."""
    identifier = value.get("id") if isinstance(value, dict) else None
    if isinstance(identifier, bool):
        return None
    if isinstance(identifier, float):
        return identifier if math.isfinite(identifier) else None
    if isinstance(identifier, int):
        return identifier if abs(identifier) < LARGEST_ID else None
    return identifier if isinstance(identifier, str) else None


def _unparsed(data: bytes, problem: str) -> Malformed:
    try:
        lenient = json.loads(data.removeprefix(BOM).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        lenient = None
    if not data.strip():
        problem = "it is empty"
    return _malformed(PARSE_ERROR, f"The message is not JSON in UTF-8: {problem}.", _usable_id(lenient))


def _invalid(problem: str, identifier: Any = None) -> Malformed:
    return _malformed(INVALID_REQUEST, f"The message is not a JSON-RPC request: {problem}.", identifier)


def _malformed(code: int, message: str, identifier: Any) -> Malformed:
    error = FwError("invalid_argument", message, not_done="Nothing was run.", hint=HINT)
    return Malformed(code, error, identifier)


def _problem(value: dict[str, Any]) -> str:
    """What keeps an object from being a message."""
    if value.get("jsonrpc") != "2.0":
        return "'jsonrpc' is not '2.0'"
    if "method" in value and not isinstance(value["method"], str):
        return f"'method' is {_kind(value['method'])}, not a string"
    if "method" in value:
        return f"'params' is {_kind(value.get('params'))}, not an object"
    return "it has neither 'method' nor a usable 'result' or 'error'"


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return kinds.get(type(value), "null" if value is None else "an object")

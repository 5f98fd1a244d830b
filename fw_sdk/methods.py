"""Turns an operation's definition into a method of a client: the same definition for both, typed for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, overload

from fw_sdk.calls import EventStream, Listing, Request
from fw_sdk.exceptions import typed
from fw_sdk.transport import AsyncTransport, SyncTransport
from fw_sdk.types import FwError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Group:
    """Operations of one resource, bound to a client's transport."""

    def __init__(self, transport: SyncTransport | AsyncTransport) -> None:
        self._transport = transport


class Method(Generic[P, R]):
    """A definition in the place of a method: looked up on a group, it runs on the group's transport."""

    def __init__(self, definition: Callable[..., Any]) -> None:
        self.definition = definition
        self.__doc__ = definition.__doc__

    @overload
    def __get__(self, group: None, owner: type) -> Method[P, R]: ...
    @overload
    def __get__(self, group: Group, owner: type) -> Callable[P, R]: ...
    def __get__(self, group: Group | None, owner: type) -> Any:
        """The method itself on the class, a function with the definition's signature on an instance."""
        if group is None:
            return self
        transport = group._transport

        @wraps(self.definition)
        def method(*arguments: Any, **named: Any) -> Any:
            try:
                operation = self.definition(*arguments, **named)
            except FwError as error:
                raise typed(error) from error.__cause__
            if isinstance(operation, Listing):
                return transport.walk(operation)
            if isinstance(operation, EventStream):
                return transport.stream(operation)
            return transport.run(operation)

        return method


@overload
def sync(definition: Callable[P, Listing[T]]) -> Method[P, Iterator[T]]: ...
@overload
def sync(definition: Callable[P, EventStream[T]]) -> Method[P, Iterator[T]]: ...
@overload
def sync(definition: Callable[P, Request[T]]) -> Method[P, T]: ...
def sync(definition: Callable[..., Any]) -> Method[Any, Any]:
    """The definition as a method of a synchronous group: a value, or an iterator of values."""
    return Method(definition)


@overload
def asynchronous(definition: Callable[P, Listing[T]]) -> Method[P, AsyncIterator[T]]: ...
@overload
def asynchronous(definition: Callable[P, EventStream[T]]) -> Method[P, AsyncIterator[T]]: ...
@overload
def asynchronous(definition: Callable[P, Request[T]]) -> Method[P, Awaitable[T]]: ...
def asynchronous(definition: Callable[..., Any]) -> Method[Any, Any]:
    """The definition as a method of an asynchronous group: an awaitable, or an asynchronous iterator."""
    return Method(definition)

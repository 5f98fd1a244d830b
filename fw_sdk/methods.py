"""Turns an operation's definition into a method of a client: the same definition for both, typed for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import cached_property
from inspect import Parameter, Signature
from inspect import signature as signature_of
from types import GenericAlias
from typing import Any, Generic, ParamSpec, TypeVar, get_args, get_origin, get_type_hints, overload

from fw_sdk.calls import EventStream, Listing, Request
from fw_sdk.exceptions import typed
from fw_sdk.transport import Transport
from fw_sdk.types import FwError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Group:
    """Operations of one resource, bound to a client's transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport


class Method(Generic[P, R]):
    """A definition in the place of a method: looked up on a group, it runs on the group's transport.

    To ``help()`` and ``inspect`` it is a function that gives what it really gives: a ``Dataset``, not the steps to it.
    """

    def __init__(self, definition: Callable[..., Any], *, waits: bool) -> None:
        self.definition = definition
        self._waits = waits
        self.__doc__ = definition.__doc__
        self.__module__ = definition.__module__
        self.__name__ = self.__qualname__ = definition.__name__

    def __set_name__(self, owner: type, name: str) -> None:
        self.__name__, self.__qualname__ = name, f"{owner.__name__}.{name}"

    @overload
    def __get__(self, group: None, owner: type) -> Method[P, R]: ...
    @overload
    def __get__(self, group: Group, owner: type) -> Callable[P, R]: ...
    def __get__(self, group: Group | None, owner: type) -> Any:
        """The method itself on the class, a function with its signature on an instance."""
        if group is None:
            return self
        method = self._bound(group._transport)
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(method, name, getattr(self, name))
        method.__wrapped__ = self.definition  # type: ignore[attr-defined]
        method.__annotations__ = {**self.definition.__annotations__, "return": self._returned[1]}
        method.__signature__ = self._signature()  # type: ignore[attr-defined]
        return method

    def __call__(self, group: Group, *arguments: Any, **named: Any) -> Any:
        """As a function of the class."""
        return self.__get__(group, type(group))(*arguments, **named)

    @property
    def __signature__(self) -> Signature:
        """With ``self``, as a function of a class has it."""
        signature = self._signature()
        parameters = [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *signature.parameters.values()]
        return signature.replace(parameters=parameters)

    def _signature(self) -> Signature:
        return signature_of(self.definition).replace(return_annotation=self._returned[1])

    @cached_property
    def _returned(self) -> tuple[bool, Any]:
        """(whether it is an iterator, the annotation of what the method gives)."""
        promised = get_type_hints(self.definition)["return"]
        value = get_args(promised)[-1]
        if get_origin(promised) in (Listing, EventStream):
            return True, GenericAlias(AsyncIterator if self._waits else Iterator, (value,))
        return False, None if value is type(None) else value

    def _bound(self, transport: Any) -> Callable[..., Any]:
        def iterate(*arguments: Any, **named: Any) -> Any:
            operation = self._operation(arguments, named)
            return transport.walk(operation) if isinstance(operation, Listing) else transport.stream(operation)

        def run(*arguments: Any, **named: Any) -> Any:
            return transport.run(self._operation(arguments, named))

        async def run_later(*arguments: Any, **named: Any) -> Any:
            return await transport.run(self._operation(arguments, named))

        if self._returned[0]:
            return iterate
        return run_later if self._waits else run

    def _operation(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        try:
            return self.definition(*arguments, **named)
        except FwError as error:
            raise typed(error) from error.__cause__


@overload
def sync(definition: Callable[P, Listing[T]]) -> Method[P, Iterator[T]]: ...
@overload
def sync(definition: Callable[P, EventStream[T]]) -> Method[P, Iterator[T]]: ...
@overload
def sync(definition: Callable[P, Request[T]]) -> Method[P, T]: ...
def sync(definition: Callable[..., Any]) -> Method[Any, Any]:
    """The definition as a method of a synchronous group: a value, or an iterator of values."""
    return Method(definition, waits=False)


@overload
def asynchronous(definition: Callable[P, Listing[T]]) -> Method[P, AsyncIterator[T]]: ...
@overload
def asynchronous(definition: Callable[P, EventStream[T]]) -> Method[P, AsyncIterator[T]]: ...
@overload
def asynchronous(definition: Callable[P, Request[T]]) -> Method[P, Coroutine[Any, Any, T]]: ...
def asynchronous(definition: Callable[..., Any]) -> Method[Any, Any]:
    """The definition as a method of an asynchronous group: an awaitable, or an asynchronous iterator."""
    return Method(definition, waits=True)

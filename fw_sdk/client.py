"""``Client`` and ``AsyncClient``: the HTTP API as typed methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, overload

import httpx

from fw_sdk import groups
from fw_sdk.connection import Connection
from fw_sdk.operations.inference import Messages
from fw_sdk.transport import AsyncTransport, RawTransport, SyncTransport, of_raw_client
from fw_sdk.types import Answer, Health, Overview

DEFAULT_TIMEOUT_S = 600.0
DEFAULT_MAX_RETRIES = 2


class Client:
    """A synchronous client.

    Without arguments it talks to ``FW_BASE_URL`` with ``FW_API_KEY``, or to the daemon of ``FW_HOME``.

    Its groups are ``datasets evaluators models finetunes evaluations comparisons deployments pipelines jobs``, each
    with ``get``, ``list`` and what else can be done with it: ``help(client.datasets)``.

    Args:
        base_url: the server's root, e.g. ``http://127.0.0.1:8642``.
        api_key: the token.
        timeout_s: seconds without a byte after which a call fails; connecting may take 5.
        max_retries: attempts after the first, on connection errors, 429, 503 and what the server calls retryable.
        http_client: an ``httpx.Client`` to send with (proxies, certificates); it stays the caller's to close.

    Raises:
        UnavailableError: no daemon runs.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        *,
        http_client: httpx.Client | None = None,
    ) -> None:
        self._attach(SyncTransport(Connection.find(base_url, api_key, timeout_s, max_retries), http_client))

    def _attach(self, transport: SyncTransport | RawTransport) -> Self:
        self._transport = transport
        self._server = groups.Server(transport)
        self.datasets = groups.Datasets(transport)
        self.evaluators = groups.Evaluators(transport)
        self.models = groups.Models(transport)
        self.finetunes = groups.Finetunes(transport)
        self.evaluations = groups.Evaluations(transport)
        self.comparisons = groups.Comparisons(transport)
        self.deployments = groups.Deployments(transport)
        self.pipelines = groups.Pipelines(transport)
        self.jobs = groups.Jobs(transport)
        return self

    def with_options(
        self,
        *,
        timeout_s: float | None = None,
        max_retries: int | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Client:
        """A client with other options on the same connections, e.g. ``client.with_options(max_retries=0).jobs.get(…)``.

        ``headers`` are sent with every request. Closing the copy closes nothing.
        """
        changed = self._sender().connection.changed(
            api_key=api_key, timeout_s=timeout_s, max_retries=max_retries, headers=headers
        )
        return Client.__new__(Client)._attach(self._sender().sharing(changed))

    @property
    def with_raw_response(self) -> Any:
        """The same groups and methods, but each gives a ``RawResponse``: ``status_code``, ``headers``, ``request_id``,
        ``text``, and ``parse()`` for the value. A list gives one for each page; a stream has none.
        """
        return Client.__new__(Client)._attach(RawTransport(self._sender()))

    def _sender(self) -> SyncTransport:
        if not isinstance(self._transport, SyncTransport):
            raise of_raw_client()
        return self._transport

    @property
    def base_url(self) -> str:
        """Where requests go."""
        return self._transport.connection.base_url

    @property
    def api_key(self) -> str:
        """The token that requests carry."""
        return self._transport.connection.api_key

    @overload
    def chat(self, model: str, messages: Messages, *, stream: Literal[False] = False, **sampling: Any) -> str: ...
    @overload
    def chat(self, model: str, messages: Messages, *, stream: Literal[True], **sampling: Any) -> Iterator[str]: ...
    def chat(self, model: str, messages: Messages, *, stream: bool = False, **sampling: Any) -> str | Iterator[str]:
        """A deployment's or model's answer as text, or with ``stream=True`` an iterator of its pieces.

        Args:
            model: a deployment's or model's id.
            messages: ``[{"role": …, "content": …}, …]``, or one user message as a string.
            stream: give pieces as they are generated.
            sampling: max_tokens, temperature, top_p, seed, stop, response_format.
        """
        if stream:
            return self._server.chat_stream(model, messages, **sampling)
        return self._server.chat(model, messages, **sampling)

    def answer(self, model: str, messages: Messages, **sampling: Any) -> Answer:
        """The answer, with how it ended (``.cut``: at ``max_tokens``) and the tokens that it took."""
        return self._server.answer(model, messages, **sampling)

    def complete(
        self,
        model: str,
        prompt: str,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> str:
        """The raw continuation of a prompt, without a chat template."""
        return self._server.complete(
            model, prompt, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop
        )

    def health(self) -> Health:
        """Whether the daemon runs, and its version."""
        return self._server.health()

    def overview(self) -> Overview:
        """The state of everything in one reply, with the most useful next call."""
        return self._server.overview()

    def shutdown(self, *, keep_jobs: bool = True) -> None:
        """Stop the daemon and its workers; running jobs live on unless ``keep_jobs`` is false."""
        self._server.shutdown(keep_jobs=keep_jobs)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """An asynchronous client: ``Client`` with awaitables and asynchronous iterators."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        *,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._attach(AsyncTransport(Connection.find(base_url, api_key, timeout_s, max_retries), http_client))

    def _attach(self, transport: AsyncTransport | RawTransport) -> Self:
        self._transport = transport
        self._server = groups.AsyncServer(transport)
        self.datasets = groups.AsyncDatasets(transport)
        self.evaluators = groups.AsyncEvaluators(transport)
        self.models = groups.AsyncModels(transport)
        self.finetunes = groups.AsyncFinetunes(transport)
        self.evaluations = groups.AsyncEvaluations(transport)
        self.comparisons = groups.AsyncComparisons(transport)
        self.deployments = groups.AsyncDeployments(transport)
        self.pipelines = groups.AsyncPipelines(transport)
        self.jobs = groups.AsyncJobs(transport)
        return self

    def with_options(
        self,
        *,
        timeout_s: float | None = None,
        max_retries: int | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncClient:
        """A client with other options on the same connections; see ``Client.with_options``."""
        changed = self._sender().connection.changed(
            api_key=api_key, timeout_s=timeout_s, max_retries=max_retries, headers=headers
        )
        return AsyncClient.__new__(AsyncClient)._attach(self._sender().sharing(changed))

    @property
    def with_raw_response(self) -> Any:
        """The same groups and methods, but each gives a ``RawResponse``; see ``Client.with_raw_response``."""
        return AsyncClient.__new__(AsyncClient)._attach(RawTransport(self._sender()))

    def _sender(self) -> AsyncTransport:
        if not isinstance(self._transport, AsyncTransport):
            raise of_raw_client()
        return self._transport

    @property
    def base_url(self) -> str:
        """Where requests go."""
        return self._transport.connection.base_url

    @property
    def api_key(self) -> str:
        """The token that requests carry."""
        return self._transport.connection.api_key

    @overload
    async def chat(self, model: str, messages: Messages, *, stream: Literal[False] = False, **sampling: Any) -> str: ...
    @overload
    async def chat(
        self, model: str, messages: Messages, *, stream: Literal[True], **sampling: Any
    ) -> AsyncIterator[str]: ...
    async def chat(
        self, model: str, messages: Messages, *, stream: bool = False, **sampling: Any
    ) -> str | AsyncIterator[str]:
        """A deployment's or model's answer as text, or with ``stream=True`` an asynchronous iterator of its pieces.

        Args:
            model: a deployment's or model's id.
            messages: ``[{"role": …, "content": …}, …]``, or one user message as a string.
            stream: give pieces as they are generated.
            sampling: max_tokens, temperature, top_p, seed, stop, response_format.
        """
        if stream:
            return self._server.chat_stream(model, messages, **sampling)
        return await self._server.chat(model, messages, **sampling)

    async def answer(self, model: str, messages: Messages, **sampling: Any) -> Answer:
        """The answer, with how it ended (``.cut``: at ``max_tokens``) and the tokens that it took."""
        return await self._server.answer(model, messages, **sampling)

    async def complete(
        self,
        model: str,
        prompt: str,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> str:
        """The raw continuation of a prompt, without a chat template."""
        return await self._server.complete(
            model, prompt, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop
        )

    async def health(self) -> Health:
        """Whether the daemon runs, and its version."""
        return await self._server.health()

    async def overview(self) -> Overview:
        """The state of everything in one reply, with the most useful next call."""
        return await self._server.overview()

    async def shutdown(self, *, keep_jobs: bool = True) -> None:
        """Stop the daemon and its workers; running jobs live on unless ``keep_jobs`` is false."""
        await self._server.shutdown(keep_jobs=keep_jobs)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

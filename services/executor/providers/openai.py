"""OpenAI, and whatever speaks its wire format, by the official SDK."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2  # the SDK's own transport: what it raises stands behind the SDK's errors, and now and then in their place
import openai
import orjson
from openai import AsyncOpenAI

from services.executor.providers import responses
from services.executor.providers.chunks import Assembly, in_one_piece
from services.executor.providers.completion import answer_of, read_completion, read_embeddings
from services.executor.providers.failures import of_status, redacted
from services.executor.providers.keys import Keys
from services.executor.providers.prepared import Prepared
from services.executor.providers.prompt import asked_of, messages_of
from services.executor.providers.protocol import Answer, Call, Chunk, Hear, ProviderFailure
from services.executor.providers.transport import Transport
from services.executor.providers.wire import UNCOMPRESSED, bounded, of_lost_connection, server_sent
from shared.models import REASONING_MODELS

_CHAT, _RESPONSES, _EMBEDDINGS = "/chat/completions", "/responses", "/embeddings"
_OUTPUT_BOUNDS = frozenset({"max_tokens", "max_completion_tokens"})


class OpenAIProvider:
    """Chat completions. The SDK's own retries are off: each attempt is recorded, and that is ours to do."""

    def __init__(self, keys: Sequence[str], base_url: str | None = None) -> None:
        """`base_url` None: OpenAI itself, or what its SDK's own variables say."""
        self._keys = Keys(keys)
        self._transport = Transport()
        http = httpx2.AsyncClient(transport=self._transport, headers=UNCOMPRESSED)
        clients = [_client(key, base_url, http) for key in keys]
        self._prepared = [
            {path: Prepared(partial(_over, client), path, self._transport) for path in (_CHAT, _RESPONSES, _EMBEDDINGS)}
            for client in clients
        ]

    async def call(self, call: Call) -> Answer:
        question = {"messages": messages_of(call.prompt), **parameters_of(call)}
        return read_completion(await self._whole(_CHAT, call, question), call)

    async def stream(self, call: Call, hear: Hear) -> Answer:
        asked = call.prompt.get("stream_options")
        options = {**(asked if isinstance(asked, dict) else {}), "include_usage": True}
        question = {"messages": messages_of(call.prompt), **parameters_of(call), "stream_options": options}
        async with self._streamed(_CHAT, call, question) as response:
            if "json" in response.headers.get("content-type", ""):  # a server that cannot stream
                return in_one_piece(read_completion(await bounded(response.aiter_bytes()), call), hear)
            completion = await _heard(response, hear)
        return answer_of(completion, call)

    async def respond(self, call: Call, hear: Hear | None) -> Answer:
        question = responses.parameters_of(call)
        if hear is None:
            return responses.read_response(await self._whole(_RESPONSES, call, question), call)
        async with self._streamed(_RESPONSES, call, question) as response:
            if "json" in response.headers.get("content-type", ""):
                return responses.read_response(await bounded(response.aiter_bytes()), call)
            whole = await _responded(response, hear)
        return responses.answer_of(whole, call)

    async def embed(self, call: Call) -> Answer:
        asked = {name: value for name, value in parameters_of(call).items() if name not in _OUTPUT_BOUNDS}
        question = {"encoding_format": "float", "input": call.prompt.get("input", ""), **asked}
        return read_embeddings(await self._whole(_EMBEDDINGS, call, question), call)

    async def close(self) -> None:
        await self._transport.aclose()

    async def _whole(self, path: str, call: Call, question: dict[str, Any]) -> bytes:
        key = self._keys.take()
        try:
            body = {"model": call.model, **question}
            return await self._prepared[key][path].whole(body, headers_of(call), call.timeout_s)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise self._failure(key, error) from error

    @asynccontextmanager
    async def _streamed(self, path: str, call: Call, question: dict[str, Any]) -> AsyncIterator[httpx2.Response]:
        key = self._keys.take()
        try:
            body = {"model": call.model, **question, "stream": True}
            async with self._prepared[key][path].streamed(body, headers_of(call), call.timeout_s) as response:
                yield response
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise self._failure(key, error) from error

    def _failure(self, key: int, error: openai.OpenAIError | httpx2.HTTPError) -> ProviderFailure:
        return self._keys.learn(key, failure_of(error, self._keys.redacted(str(error))))


def _client(key: str, base_url: str | None, http: httpx2.AsyncClient) -> AsyncOpenAI:
    if base_url is None:
        return AsyncOpenAI(api_key=key, max_retries=0, http_client=http)
    client = AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, http_client=http)
    # From OpenAI's own variables, and no business of another server.
    client.organization = client.project = None
    client._custom_headers = {}
    return client


def _over(client: AsyncOpenAI, http: httpx2.AsyncClient) -> AsyncOpenAI:
    """The same client over another HTTP client."""
    made = client.with_options(http_client=http)
    made.organization, made.project, made._custom_headers = client.organization, client.project, client._custom_headers
    return made


async def _heard(response: httpx2.Response, hear: Hear) -> dict[str, Any]:
    """The completion that the stream adds up to; each chunk is heard as it comes."""
    assembly = Assembly()
    async for chunk in _chunks(response):
        assembly.add(chunk.body)
        hear(chunk)
    if not assembly.is_finished:
        raise ProviderFailure("InvalidAnswer", "the stream ended before the answer did", spend="uncertain")
    return assembly.completion()


async def _responded(response: httpx2.Response, hear: Hear) -> dict[str, Any]:
    """The response that the stream ends with; each event is heard as it comes."""
    whole: dict[str, Any] | None = None
    async for chunk in _chunks(response):
        hear(chunk)
        whole = responses.finished(chunk.body) or whole
    if whole is None:
        raise ProviderFailure("InvalidAnswer", "the stream ended before the answer did", spend="uncertain")
    return whole


async def _chunks(response: httpx2.Response) -> AsyncIterator[Chunk]:
    async for data in server_sent(response.aiter_bytes()):
        if data == b"[DONE]":
            break
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ProviderFailure("InvalidAnswer", f"a chunk is not JSON: {error}", spend="uncertain") from error
        if not isinstance(body, dict) or body.get("error") or body.get("type") == "error":
            problem = orjson.dumps(body).decode(errors="replace")
            raise ProviderFailure("StreamError", redacted(problem, ()), spend="uncertain")
        yield Chunk(body, data)


def headers_of(call: Call) -> dict[str, str]:
    """The task's id, by which a repeat is known, and the attempt's, by which the provider's support finds this call."""
    return {"idempotency-key": call.idempotency_key, "x-client-request-id": call.attempt_id}


def parameters_of(call: Call) -> dict[str, Any]:
    """What the caller asked for beside the messages, with the output bound that the reservation rests on."""
    found = asked_of(call.prompt)
    newer = "max_completion_tokens" in call.prompt or call.model.startswith(REASONING_MODELS)
    if call.max_output_tokens is not None:
        found["max_completion_tokens" if newer else "max_tokens"] = call.max_output_tokens
    return found


def failure_of(error: openai.OpenAIError | httpx2.HTTPError, detail: str) -> ProviderFailure:
    """Whose fault, whether money went, and whether another try makes sense. `detail` holds no secret any more."""
    kind = type(error).__name__
    if isinstance(error, openai.APIStatusError):
        return of_status(kind, detail, error.status_code, error.response.headers, time.time())
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    return of_lost_connection(kind, detail, cause)

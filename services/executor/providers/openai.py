"""OpenAI, and whatever speaks its wire format, by the official SDK."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
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
from services.executor.providers.prompt import asked_of, messages_of
from services.executor.providers.protocol import Answer, Call, Chunk, Hear, ProviderFailure
from services.executor.providers.wire import bounded, of_lost_connection, server_sent
from shared.models import REASONING_MODELS

_OUTPUT_BOUNDS = frozenset({"max_tokens", "max_completion_tokens"})


class OpenAIProvider:
    """Chat completions. The SDK's own retries are off: each attempt is recorded, and that is ours to do."""

    def __init__(self, keys: Sequence[str], base_url: str | None = None) -> None:
        """`base_url` None: OpenAI itself, or what its SDK's own variables say."""
        self._keys = Keys(keys)
        self._clients = [_client(key, base_url) for key in keys]

    async def call(self, call: Call) -> Answer:
        messages, parameters = messages_of(call.prompt), parameters_of(call)
        key = self._keys.take()
        try:
            async with self._clients[key].chat.completions.with_streaming_response.create(
                model=call.model,
                messages=messages,
                timeout=call.timeout_s,
                extra_headers=headers_of(call),
                extra_body=parameters,
            ) as response:
                body = await bounded(response)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise self._failure(key, error) from error
        return read_completion(body, call)

    async def stream(self, call: Call, hear: Hear) -> Answer:
        messages, parameters = messages_of(call.prompt), parameters_of(call)
        asked = call.prompt.get("stream_options")
        options = {**(asked if isinstance(asked, dict) else {}), "include_usage": True}
        key = self._keys.take()
        try:
            async with self._clients[key].chat.completions.with_streaming_response.create(
                model=call.model,
                messages=messages,
                timeout=call.timeout_s,
                extra_headers=headers_of(call),
                extra_body={**parameters, "stream": True, "stream_options": options},
            ) as response:
                if "json" in response.headers.get("content-type", ""):  # a server that cannot stream
                    return in_one_piece(read_completion(await bounded(response), call), hear)
                completion = await _heard(response, hear)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise self._failure(key, error) from error
        return answer_of(completion, call)

    async def respond(self, call: Call, hear: Hear | None) -> Answer:
        body = responses.parameters_of(call) | ({} if hear is None else {"stream": True})
        key = self._keys.take()
        try:
            async with self._clients[key].responses.with_streaming_response.create(
                model=call.model, timeout=call.timeout_s, extra_headers=headers_of(call), extra_body=body
            ) as response:
                if hear is None or "json" in response.headers.get("content-type", ""):
                    return responses.read_response(await bounded(response), call)
                whole = await _responded(response, hear)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise self._failure(key, error) from error
        return responses.answer_of(whole, call)

    async def embed(self, call: Call) -> Answer:
        body = {name: value for name, value in parameters_of(call).items() if name not in _OUTPUT_BOUNDS}
        key = self._keys.take()
        try:
            async with self._clients[key].embeddings.with_streaming_response.create(
                model=call.model,
                input=call.prompt.get("input", ""),
                timeout=call.timeout_s,
                extra_headers=headers_of(call),
                # The SDK would ask for base64 by itself, and decode it; here the answer goes on as it comes.
                encoding_format=body.pop("encoding_format", "float"),
                extra_body=body,
            ) as response:
                raw = await bounded(response)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise self._failure(key, error) from error
        return read_embeddings(raw, call)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    def _failure(self, key: int, error: openai.OpenAIError | httpx2.HTTPError) -> ProviderFailure:
        return self._keys.learn(key, failure_of(error, self._keys.redacted(str(error))))


def _client(key: str, base_url: str | None) -> AsyncOpenAI:
    if base_url is None:
        return AsyncOpenAI(api_key=key, max_retries=0)
    client = AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0)
    # From OpenAI's own variables, and no business of another server.
    client.organization = client.project = None
    client._custom_headers = {}
    return client


async def _heard(response: Any, hear: Hear) -> dict[str, Any]:
    """The completion that the stream adds up to; each chunk is heard as it comes."""
    assembly = Assembly()
    async for chunk in _chunks(response):
        assembly.add(chunk.body)
        hear(chunk)
    if not assembly.is_finished:
        raise ProviderFailure("InvalidAnswer", "the stream ended before the answer did", spend="uncertain")
    return assembly.completion()


async def _responded(response: Any, hear: Hear) -> dict[str, Any]:
    """The response that the stream ends with; each event is heard as it comes."""
    whole: dict[str, Any] | None = None
    async for chunk in _chunks(response):
        hear(chunk)
        whole = responses.finished(chunk.body) or whole
    if whole is None:
        raise ProviderFailure("InvalidAnswer", "the stream ended before the answer did", spend="uncertain")
    return whole


async def _chunks(response: Any) -> AsyncIterator[Chunk]:
    async for data in server_sent(response):
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
    return {"Idempotency-Key": call.idempotency_key, "X-Client-Request-Id": call.attempt_id}


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

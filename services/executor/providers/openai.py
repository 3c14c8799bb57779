"""OpenAI, and whatever speaks its wire format, by the official SDK (`OPENAI_API_KEY`, `OPENAI_BASE_URL`)."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2  # the SDK's own transport: what it raises stands behind the SDK's errors, and now and then in their place
import openai
from openai import AsyncOpenAI

from services.executor.providers.completion import read_completion
from services.executor.providers.protocol import Answer, Call, ProviderFailure, Spend

# Ours, or the stub's: never sent to a provider.
_NOT_SENT = frozenset(
    {
        "model", "input", "text", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options",
        "cache_enabled", "cache_watermark", "kill_switch", "retry_safe", "raise_error",
    }
)  # fmt: skip
_REASONING_MODELS = ("o1", "o3", "o4", "gpt-5")
_BEFORE_THE_REQUEST = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
# Answered by something between us and the provider, which may have done the work and charged for it.
_PERHAPS_SPENT = frozenset({408, 502, 504, 520, 522, 524})
_PROVIDERS_FAULT_BELOW_500 = frozenset({408})
_SECRET = re.compile(r"\b(?:(?:sk|pk|key)[-_]|Bearer )[\w*.-]{6,}")
MAX_ANSWER_BYTES = 4 * 2**20


class OpenAIProvider:
    """Chat completions. The SDK's own retries are off: each attempt is recorded, and that is ours to do."""

    def __init__(self) -> None:
        self._client = AsyncOpenAI(max_retries=0)

    async def call(self, call: Call) -> Answer:
        messages, parameters = messages_of(call.prompt), parameters_of(call)
        try:
            async with self._client.chat.completions.with_streaming_response.create(
                model=call.model,
                messages=messages,
                timeout=call.timeout_s,
                extra_headers=headers_of(call),
                extra_body=parameters,
            ) as response:
                body = await _bounded(response)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise failure_of(error, self._client.api_key) from error
        return read_completion(body, call.provider, call.model)

    async def close(self) -> None:
        await self._client.close()


async def _bounded(response: Any) -> bytes:
    body = bytearray()
    async for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            problem = f"the answer has more than {MAX_ANSWER_BYTES} bytes"
            raise ProviderFailure("AnswerTooLarge", problem, spend="uncertain")
    return bytes(body)


def messages_of(prompt: dict[str, Any]) -> Any:
    """`messages`, else `input` or `text` as the user's words. Raises ProviderFailure, which is the caller's fault."""
    messages = prompt.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
        return messages
    text = prompt.get("input", prompt.get("text"))
    if messages or not isinstance(text, str):
        problem = "give messages (a list of objects), input or text (a string)"
        raise ProviderFailure("InvalidPrompt", problem, counts_for_breaker=False, asked=False)
    return [{"role": "user", "content": text}]


def headers_of(call: Call) -> dict[str, str]:
    """The task's id, by which a repeat is known, and the attempt's, by which the provider's support finds this call."""
    return {"Idempotency-Key": call.idempotency_key, "X-Client-Request-Id": call.attempt_id}


def parameters_of(call: Call) -> dict[str, Any]:
    """What the caller asked for beside the messages, with the output bound that the reservation rests on."""
    found = {
        name: value
        for name, value in call.prompt.items()
        if name not in _NOT_SENT and not name.startswith("simulated_")
    }
    newer = "max_completion_tokens" in call.prompt or call.model.startswith(_REASONING_MODELS)
    if call.max_output_tokens is not None:
        found["max_completion_tokens" if newer else "max_tokens"] = call.max_output_tokens
    return found


def failure_of(error: openai.OpenAIError | httpx2.HTTPError, secret: str) -> ProviderFailure:
    """Whose fault, whether money went, and whether another try makes sense."""
    kind = type(error).__name__
    detail = _SECRET.sub("[redacted]", str(error).replace(secret, "[redacted]") if secret else str(error))
    if isinstance(error, openai.APIStatusError):
        return _status_failure(error, kind, detail)
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    if isinstance(cause, _BEFORE_THE_REQUEST):
        return ProviderFailure(kind, detail, retry=True)
    # The request was sent: it may have been worked off, and charged, though its answer was lost or cannot be read.
    return ProviderFailure(kind, detail, spend="uncertain")


def _status_failure(error: openai.APIStatusError, kind: str, detail: str) -> ProviderFailure:
    status = error.status_code
    providers_fault = status >= 500 or status in _PROVIDERS_FAULT_BELOW_500
    spend: Spend = "uncertain" if status in _PERHAPS_SPENT else "none"
    return ProviderFailure(
        kind,
        detail,
        spend=spend,
        counts_for_breaker=providers_fault,
        retry=status in (429, 503),
        retry_after_s=retry_after(error.response.headers, time.time()),
    )


def retry_after(headers: httpx2.Headers, now_s: float) -> float | None:
    """Seconds that the provider asks us to wait: `Retry-After` as a number or a date, or `retry-after-ms`."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wait_s = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        return max(0.0, wait_s) if wait_s < float("inf") else None
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - now_s)
    except (KeyError, ValueError):
        return None

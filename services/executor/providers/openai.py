"""OpenAI, and whatever speaks its wire format, by the official SDK (`OPENAI_API_KEY`, `OPENAI_BASE_URL`)."""

from __future__ import annotations

from typing import Any

import httpx
import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from services.executor.providers.protocol import Answer, Call, ProviderFailure
from shared import pricing

# Ours, or the stub's: never sent to a provider.
_NOT_SENT = frozenset(
    {
        "model", "input", "text", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options",
        "cache_enabled", "cache_watermark", "kill_switch", "retry_safe", "raise_error",
    }
)  # fmt: skip
_BEFORE_THE_REQUEST = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class OpenAIProvider:
    """Chat completions. The SDK's own retries are off: each attempt is recorded, and that is ours to do."""

    def __init__(self) -> None:
        self._client: AsyncOpenAI | None = None

    async def call(self, call: Call) -> Answer:
        try:
            completion = await self._connected().chat.completions.create(
                model=call.model,
                messages=_messages(call.prompt),
                timeout=call.timeout_s,
                extra_headers={"Idempotency-Key": call.idempotency_key},
                extra_body=_parameters(call),
            )
        except openai.OpenAIError as error:
            raise _failure(error) from error
        return _answer(call, completion)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def _connected(self) -> AsyncOpenAI:
        if self._client is None:
            try:
                self._client = AsyncOpenAI(max_retries=0)
            except openai.OpenAIError as error:
                problem = "OPENAI_API_KEY is not set for the executor"
                raise ProviderFailure("MissingCredentials", problem, counts_for_breaker=False) from error
        return self._client


def _messages(prompt: dict[str, Any]) -> Any:
    messages = prompt.get("messages")
    if isinstance(messages, list) and messages:
        return messages
    text = prompt.get("input", prompt.get("text"))
    if not isinstance(text, str):
        raise ProviderFailure("InvalidPrompt", "give messages, input or text", counts_for_breaker=False)
    return [{"role": "user", "content": text}]


def _parameters(call: Call) -> dict[str, Any]:
    """What the caller asked for beside the messages, with the output bound that the reservation rests on."""
    found = {
        name: value
        for name, value in call.prompt.items()
        if name not in _NOT_SENT and not name.startswith("simulated_")
    }
    newer = "max_completion_tokens" in call.prompt or call.model.startswith(("o1", "o3", "o4", "gpt-5"))
    if call.max_output_tokens is not None:
        found["max_completion_tokens" if newer else "max_tokens"] = call.max_output_tokens
    return found


def _answer(call: Call, completion: ChatCompletion) -> Answer:
    usage = completion.usage
    choice = completion.choices[0] if completion.choices else None
    message = choice.message if choice else None
    read = usage.prompt_tokens_details.cached_tokens if usage and usage.prompt_tokens_details else 0
    inputs, outputs = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return Answer(
        output_text=(message.content if message else None) or "",
        input_tokens=inputs,
        output_tokens=outputs,
        # Without usage nobody knows the cost: the reservation counts as spent.
        cost=pricing.cost(call.provider, call.model, inputs, outputs, cached_input_tokens=read or 0) if usage else None,
        reasoning_trace=reasoning,
        metadata={"completion": completion.model_dump(mode="json", exclude_none=True)},
    )


def _failure(error: openai.OpenAIError) -> ProviderFailure:
    """Whose fault, whether money went, and whether another try makes sense."""
    kind = type(error).__name__
    if isinstance(error, openai.RateLimitError):
        wait = _seconds(error.response.headers.get("retry-after"))
        return ProviderFailure(kind, str(error), counts_for_breaker=False, retry=True, retry_after_s=wait)
    if isinstance(error, openai.APIStatusError):
        ours = error.status_code < 500 and error.status_code not in (408, 409)
        return ProviderFailure(kind, str(error), counts_for_breaker=not ours, retry=error.status_code == 503)
    if isinstance(error, openai.APIConnectionError):
        if isinstance(error.__cause__, _BEFORE_THE_REQUEST):
            return ProviderFailure(kind, str(error), retry=True)
        return ProviderFailure(kind, str(error), spend="uncertain")
    # An answer that the SDK cannot read was an answer: it may well be billed.
    return ProviderFailure(kind, str(error), spend="uncertain")


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None

"""OpenAI's Responses API: what is sent, and what an answer says. Pure."""

from __future__ import annotations

import json
from typing import Any

from services.executor import storable
from services.executor.providers.charge import charged, count
from services.executor.providers.protocol import Answer, Call, ProviderFailure
from shared.price_list import Tokens

# Ours: never sent to a provider. All else is the caller's, as it stands.
_NOT_SENT = frozenset(
    {"model", "stream", "cache_enabled", "cache_watermark", "kill_switch", "retry_safe", "raise_error"}
)
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})


def parameters_of(call: Call) -> dict[str, Any]:
    """The request's body without the model, with the output bound that the reservation rests on."""
    found = {
        name: value
        for name, value in call.prompt.items()
        if name not in _NOT_SENT and not name.startswith("simulated_")
    }
    if call.max_output_tokens is not None:
        found["max_output_tokens"] = call.max_output_tokens
    return found


def finished(event: dict[str, Any]) -> dict[str, Any] | None:
    """The response, where this is the stream's last event."""
    response = event.get("response")
    return response if event.get("type") in _LAST and isinstance(response, dict) else None


def read_response(body: bytes, call: Call) -> Answer:
    """The answer in a response's body. Raises ProviderFailure (`InvalidAnswer`) for what is none."""
    try:
        raw: Any = json.loads(body.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ProviderFailure("InvalidAnswer", f"not JSON: {error}", spend="uncertain") from error
    if not isinstance(raw, dict):
        raise ProviderFailure("InvalidAnswer", "not a JSON object", spend="uncertain")
    return answer_of(raw, call)


def answer_of(raw: dict[str, Any], call: Call) -> Answer:
    """The answer in a response. Raises as `read_response`; a failed response costs what its usage says."""
    spent = charged(call, tokens_of(raw.get("usage")))
    items = raw.get("output")
    answer = Answer(
        output_text="".join(_texts(items)),
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        cost=spent.cost,
        reasoning_trace=[item for item in _dicts(items) if item.get("type") == "reasoning"] or None,
        metadata={"completion": raw},
        counts=spent.counts or {},
        prices=spent.prices,
    )
    if raw.get("status") == "failed" or not isinstance(items, list):
        problem = f"no answer: {storable.compact(raw.get('error'))}"
        if not spent.is_known:
            raise ProviderFailure("InvalidAnswer", problem, spend="uncertain")
        raise ProviderFailure("InvalidAnswer", problem, spend="certain", answer=answer)
    return answer


def tokens_of(usage: Any) -> Tokens | None:
    """The tokens in a response's `usage`; None where a total is absent or cannot be true."""
    if not isinstance(usage, dict):
        return None
    inputs, outputs = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    if inputs is None or outputs is None:
        return None
    cached = _detail(usage, "input_tokens_details", "cached_tokens")
    return Tokens(
        inputs, outputs, cache_read=cached, reasoning=_detail(usage, "output_tokens_details", "reasoning_tokens")
    )


def _detail(usage: dict[str, Any], details: str, name: str) -> int:
    found = usage.get(details)
    return (count(found.get(name)) if isinstance(found, dict) else None) or 0


def _texts(items: Any) -> list[str]:
    parts = [
        part for item in _dicts(items) for part in _dicts(item.get("content")) if part.get("type") == "output_text"
    ]
    return [text for part in parts if isinstance(text := part.get("text"), str)]


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []

"""Reading a chat completion that came over the wire. Pure: whatever stands in it is data, and may be anything."""

from __future__ import annotations

import json
from typing import Any

from services.executor import storable
from services.executor.providers.protocol import Answer, ProviderFailure
from shared import pricing


def read_completion(body: bytes, provider: str, model: str) -> Answer:
    """The answer in a response's body.

    Raises ProviderFailure (`InvalidAnswer`) for what holds no answer: its cost is certain where it states its usage,
    else nobody knows it.
    """
    try:
        raw: Any = json.loads(body.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ProviderFailure("InvalidAnswer", f"not JSON: {error}", spend="uncertain") from error
    if not isinstance(raw, dict):
        raise ProviderFailure("InvalidAnswer", "not a JSON object", spend="uncertain")
    return answer_of(raw, provider, model)


def answer_of(raw: dict[str, Any], provider: str, model: str) -> Answer:
    """The answer in a completion. Raises as `read_completion`."""
    inputs, outputs, cached = _usage(raw.get("usage"))
    known = inputs is not None and outputs is not None
    message = _message(raw)
    text = _text(message.pop("content", None))
    answer = Answer(
        output_text=text,
        input_tokens=inputs or 0,
        output_tokens=outputs or 0,
        # Without usage nobody knows the cost, and the reservation counts as spent.
        cost=pricing.cost(provider, model, inputs or 0, outputs or 0, cached_input_tokens=cached) if known else None,
        reasoning_trace=_reasoning(message),
        metadata={"completion": raw},
    )
    if "choices" not in raw or not raw["choices"]:
        problem = f"no choices: {storable.compact(raw.get('error'))}"
        if not known:
            raise ProviderFailure("InvalidAnswer", problem, spend="uncertain")
        raise ProviderFailure("InvalidAnswer", problem, spend="certain", answer=answer)
    return answer


def read_embeddings(body: bytes, provider: str, model: str) -> Answer:
    """The answer in the response to a request for embeddings. Raises as `read_completion`."""
    try:
        raw: Any = json.loads(body.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ProviderFailure("InvalidAnswer", f"not JSON: {error}", spend="uncertain") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("data"), list) or not raw["data"]:
        raise ProviderFailure("InvalidAnswer", "no embeddings", spend="uncertain")
    inputs, _, _ = _usage(raw.get("usage"))
    cost = None if inputs is None else pricing.cost(provider, model, inputs, 0)
    return Answer("", inputs or 0, 0, cost, metadata={"completion": raw})


def _message(raw: dict[str, Any]) -> dict[str, Any]:
    choices = raw.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, dict) else {}


def _text(content: Any) -> str:
    """The text of a message: a string, or (with some servers) a list of parts."""
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    return "" if content is None else content if isinstance(content, str) else storable.compact(content)


def _reasoning(message: dict[str, Any]) -> Any:
    found = (message.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details"))
    return next((value for value in found if value), None)


def _usage(usage: Any) -> tuple[int | None, int | None, int]:
    """Input, output and cached input tokens; None for a count that is absent or cannot be true."""
    if not isinstance(usage, dict):
        return None, None, 0
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), cached or 0


def _count(value: Any) -> int | None:
    plausible = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= storable.MAX_TOKENS
    return value if plausible else None

"""Reading a chat completion that came over the wire. Pure: whatever stands in it is data, and may be anything."""

from __future__ import annotations

import json
from typing import Any

from services.executor import storable
from services.executor.providers.charge import charged, count
from services.executor.providers.protocol import Answer, Call, ProviderFailure
from shared.price_list import Tokens


def read_completion(body: bytes, call: Call) -> Answer:
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
    return answer_of(raw, call)


def answer_of(raw: dict[str, Any], call: Call) -> Answer:
    """The answer in a completion. Raises as `read_completion`."""
    spent = charged(call, tokens_of(raw.get("usage")))
    message = _message(raw)
    text = _text(message.pop("content", None))
    answer = Answer(
        output_text=text,
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        cost=spent.cost,
        reasoning_trace=_reasoning(message),
        metadata={"completion": raw},
        counts=spent.counts or {},
        prices=spent.prices,
    )
    if "choices" not in raw or not raw["choices"]:
        problem = f"no choices: {storable.compact(raw.get('error'))}"
        if not spent.is_known:
            raise ProviderFailure("InvalidAnswer", problem, spend="uncertain")
        raise ProviderFailure("InvalidAnswer", problem, spend="certain", answer=answer)
    return answer


def read_embeddings(body: bytes, call: Call) -> Answer:
    """The answer in the response to a request for embeddings. Raises as `read_completion`."""
    try:
        raw: Any = json.loads(body.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ProviderFailure("InvalidAnswer", f"not JSON: {error}", spend="uncertain") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("data"), list) or not raw["data"]:
        raise ProviderFailure("InvalidAnswer", "no embeddings", spend="uncertain")
    usage = raw.get("usage")
    inputs = count(usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    spent = charged(call, None if inputs is None else Tokens(inputs))
    return Answer(
        "",
        spent.input_tokens,
        0,
        spent.cost,
        metadata={"completion": raw},
        counts=spent.counts or {},
        prices=spent.prices,
    )


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


def tokens_of(usage: Any) -> Tokens | None:
    """The tokens in OpenAI's `usage`; None where a total is absent or cannot be true."""
    if not isinstance(usage, dict):
        return None
    inputs, outputs = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    if inputs is None or outputs is None:
        return None
    return Tokens(
        inputs,
        outputs,
        cache_read=_detail(usage, "prompt_tokens_details", "cached_tokens"),
        cache_write=_detail(usage, "prompt_tokens_details", "cache_write_tokens"),
        cache_write_1h=_detail(usage, "prompt_tokens_details", "cache_write_1h_tokens"),
        reasoning=_detail(usage, "completion_tokens_details", "reasoning_tokens"),
        input_audio=_detail(usage, "prompt_tokens_details", "audio_tokens"),
        output_audio=_detail(usage, "completion_tokens_details", "audio_tokens"),
    )


def _detail(usage: dict[str, Any], details: str, name: str) -> int:
    found = usage.get(details)
    return (count(found.get(name)) if isinstance(found, dict) else None) or 0

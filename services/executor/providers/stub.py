"""The stub: deterministic, free of any network, and the only provider that honours `simulated_*` and `raise_error`."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any

import orjson

from services.executor.providers.protocol import Answer, Call, ProviderFailure
from shared.money import from_cents

_TYPE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
BYTES_PER_TOKEN = 4


class StubProvider:
    """Answers from the prompt alone: the same prompt gives the same answer, tokens and cost."""

    async def call(self, call: Call) -> Answer:
        prompt = call.prompt
        delay_s, cost = _simulated(prompt)
        if delay_s:
            await asyncio.sleep(delay_s)
        if error := prompt.get("raise_error"):
            raise ProviderFailure(_error_type(error), f"the stub was asked to fail: {error}")
        text = prompt.get("simulated_output_text")
        output = text if isinstance(text, str) else f"stub answer {_digest(prompt)}"
        return Answer(
            output_text=output,
            input_tokens=_tokens(orjson.dumps(_asked(prompt))),
            output_tokens=_tokens(output.encode(errors="replace")),
            cost=cost,
            reasoning_trace=prompt.get("simulated_reasoning_trace", {}),
        )

    async def close(self) -> None:
        """Nothing to let go."""


def _simulated(prompt: dict[str, Any]) -> tuple[float, int]:
    """Delay in seconds, and cost in nanocents."""
    try:
        delay_s = float(prompt.get("simulated_delay_ms", 0)) / 1000
        return delay_s, from_cents(prompt.get("simulated_cost_cents", 0))
    except (TypeError, ValueError) as error:
        raise ProviderFailure("InvalidPrompt", str(error), counts_for_breaker=False, asked=False) from error


def _asked(prompt: dict[str, Any]) -> Any:
    return next((prompt[name] for name in ("messages", "input", "text") if name in prompt), prompt)


def _tokens(data: bytes) -> int:
    return max(1, len(data) // BYTES_PER_TOKEN)


def _error_type(error: Any) -> str:
    return error if isinstance(error, str) and _TYPE_NAME.fullmatch(error) else "RuntimeError"


def _digest(prompt: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(prompt, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]

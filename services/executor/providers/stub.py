"""The stub: deterministic, free of any network, and the only provider that honours `simulated_*` and `raise_error`."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import orjson

from services.executor.providers.protocol import Answer, Call, ProviderFailure
from shared.money import from_cents


class StubProvider:
    """Answers from the prompt alone: the same prompt gives the same answer, tokens and cost."""

    async def call(self, call: Call) -> Answer:
        prompt = call.prompt
        delay_ms = prompt.get("simulated_delay_ms", 0)
        if delay_ms:
            await asyncio.sleep(float(delay_ms) / 1000)
        error = prompt.get("raise_error")
        if error:
            raise ProviderFailure(_error_type(error), f"the stub was asked to fail: {error}")
        text = prompt.get("simulated_output_text")
        output = text if isinstance(text, str) else f"stub answer {_digest(prompt)}"
        return Answer(
            output_text=output,
            input_tokens=max(1, len(orjson.dumps(prompt)) // 4),
            output_tokens=max(1, len(output) // 4),
            cost=from_cents(prompt.get("simulated_cost_cents", 0)),
            reasoning_trace=prompt.get("simulated_reasoning_trace", {}),
        )

    async def close(self) -> None:
        """Nothing to let go."""


def _error_type(error: Any) -> str:
    return error if isinstance(error, str) and error.isidentifier() else "RuntimeError"


def _digest(prompt: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(prompt, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]

"""The stub: deterministic, free of any network, and the only provider that honours `simulated_*` and `raise_error`."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import replace
from typing import Any

import orjson

from services.executor.providers.chunks import chunk, completion
from services.executor.providers.protocol import Answer, Call, Chunk, Hear, ProviderFailure
from shared import responses
from shared.money import from_cents

_TYPE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_WORD = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")
BYTES_PER_TOKEN = 4


class StubProvider:
    """Answers from the prompt alone: the same prompt gives the same answer, tokens and cost."""

    async def call(self, call: Call) -> Answer:
        delay_s, cost = _simulated(call.prompt)
        if delay_s:
            await asyncio.sleep(delay_s)
        return _answer(call, cost)

    async def stream(self, call: Call, hear: Hear) -> Answer:
        """Word by word; a simulated delay is spread evenly between the words."""
        delay_s, cost = _simulated(call.prompt)
        answer = _answer(call, cost)
        pieces = _WORD.findall(answer.output_text)
        for number, piece in enumerate(pieces):
            if number and delay_s:
                await asyncio.sleep(delay_s / (len(pieces) - 1))
            start = {} if number else {"role": "assistant"}
            hear(chunk(call, {**start, "content": piece}))
        hear(chunk(call, {}, finish="stop"))
        hear(chunk(call, None, usage=answer.metadata["completion"]["usage"]))
        return answer

    async def respond(self, call: Call, hear: Hear | None) -> Answer:
        """As `stream`, in the shape of the Responses API."""
        delay_s, cost = _simulated(call.prompt)
        said = _answer(call, cost)
        whole = responses.response(
            call.idempotency_key, call.model, said.output_text, said.input_tokens, said.output_tokens, call.created_s
        )
        pieces = _WORD.findall(said.output_text)
        if hear is None:
            await asyncio.sleep(delay_s)
        else:
            for event in responses.events_of(whole, pieces):
                if event["type"].endswith("text.delta"):
                    await asyncio.sleep(delay_s / len(pieces))
                hear(Chunk(event, orjson.dumps(event)))
        return replace(said, metadata={"completion": whole})

    async def embed(self, call: Call) -> Answer:
        delay_s, cost = _simulated(call.prompt)
        await asyncio.sleep(delay_s)
        asked = call.prompt.get("input")
        texts = asked if isinstance(asked, list) else [asked]
        data = [{"object": "embedding", "index": n, "embedding": _vector(text)} for n, text in enumerate(texts)]
        tokens = _tokens(orjson.dumps(asked))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        raw = {"object": "list", "data": data, "model": call.model, "usage": usage}
        return Answer("", tokens, 0, cost, metadata={"completion": raw})

    async def close(self) -> None:
        """Nothing to let go."""


def _answer(call: Call, cost: int) -> Answer:
    prompt = call.prompt
    if error := prompt.get("raise_error"):
        raise ProviderFailure(_error_type(error), f"the stub was asked to fail: {error}")
    text = prompt.get("simulated_output_text")
    output = text if isinstance(text, str) else f"stub answer {_digest(prompt)}"
    inputs, outputs = _tokens(orjson.dumps(_asked(prompt))), _tokens(output.encode(errors="replace"))
    return Answer(
        output_text=output,
        input_tokens=inputs,
        output_tokens=outputs,
        cost=cost,
        reasoning_trace=prompt.get("simulated_reasoning_trace", {}),
        metadata={"completion": completion(call, output, inputs, outputs)},
    )


def _vector(text: Any) -> list[float]:
    """Eight numbers between -1 and 1 that the text determines."""
    return [byte / 127.5 - 1 for byte in hashlib.sha256(orjson.dumps(text)).digest()[:8]]


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

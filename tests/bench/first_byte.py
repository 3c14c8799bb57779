"""How much later a streamed answer's first piece comes through the door than straight from the provider, and how soon a
kill switch cuts a stream: by the official client, in turns, in one run."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai
from openai import OpenAI

from tests.bench.figures import Figure, milliseconds
from tests.mock_provider import MockProvider, Reply, piece
from tests.stack import Stack

RUNS = 200
CUTS = 20
MODEL = "gpt-4o-mini"
WORD = piece({"role": "assistant", "content": "word"})


def measure() -> list[Figure]:
    """Both ways, and the difference of their medians; then cuts."""
    with MockProvider() as provider, tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder:
        given = {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": provider.url}
        rich = {"SKELDIR_HOURLY_SHUTOFF_CENTS": "100000", "SKELDIR_MONTHLY_CAP_CENTS": "100000"}
        with Stack(Path(folder), {**rich, **given}) as stack:
            through = client_of(stack, str(uuid4()))
            straight = OpenAI(base_url=provider.url, api_key="sk-bench", max_retries=0)
            took: dict[str, list[float]] = {"straight": [], "through": []}
            for _ in range(RUNS):
                for way, client in (("straight", straight), ("through", through)):
                    took[way].append(first_piece_ms(client))
            cuts = [cut_ms(stack, provider) for _ in range(CUTS)]
    later = [b - a for a, b in zip(sorted(took["straight"]), sorted(took["through"]), strict=True)]
    return [
        *(Figure(f"first piece of a stream, {way}", milliseconds(values)) for way, values in took.items()),
        Figure("through, later than straight (by quantile)", milliseconds(later)),
        Figure("kill switch acknowledged, to the end of the stream", milliseconds(cuts)),
    ]


def client_of(stack: Stack, user: str) -> OpenAI:
    """The official client, as a user."""
    key = stack.key(stack.ready["tenant_id"], user)
    return OpenAI(base_url=f"{stack.ready['gateway_url']}/v1", api_key=key, max_retries=0)


def first_piece_ms(client: OpenAI) -> float:
    """From the request until the first piece is there; the stream is read to its end."""
    began = time.perf_counter()
    stream: Any = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=10, stream=True
    )
    next(stream)
    took = (time.perf_counter() - began) * 1000
    list(stream)
    return took


def cut_ms(stack: Stack, provider: MockProvider) -> float:
    """From the order's acknowledgement until the client is told; of a user of its own."""
    user = str(uuid4())
    client = client_of(stack, user)
    provider.script(Reply(pieces=(WORD,), endless=True, pause_s=0.01))
    stream: Any = client.chat.completions.create(
        model="gpt-4.1", messages=[{"role": "user", "content": "hello"}], max_tokens=100_000, stream=True
    )
    next(stream)
    scope = {"tenant_id": stack.ready["tenant_id"], "user_id": user}
    order = {"scope": scope, "reason": "bench", "actor": "bench"}
    operator = stack.ready["operator_key"]
    assert stack.post("/v1/control", {"type": "kill_switch.engaged", **order}, key=operator).is_success
    began = time.perf_counter()
    with suppress(openai.APIError):
        list(stream)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    for figure in measure():
        print(f"{figure.what}: {figure.value}")

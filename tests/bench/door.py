"""The OpenAI door before a provider that answers at once, beside that provider; the executor beside the bare SDK.

The same client asks both: HTTP by hand, whole answers and streamed ones.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

from openai import AsyncOpenAI

from tests.bench.alone import ROOMY, tenants_of_all_partitions
from tests.bench.chain import Spending, cpu_of, kept
from tests.bench.fast_provider import FastProvider
from tests.bench.figures import Figure, in_turns, milliseconds, quantile, rate, spread
from tests.bench.http_load import Load, Request, request
from tests.stack import Stack

AT_ONCE = (1, 64)
CALLERS = 64


def measure(calls: int = 2000, turns: int = 3) -> list[Figure]:
    """Straight and through the door, taking turns."""
    with FastProvider() as provider, tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder:
        given = {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": provider.url}
        with Stack(Path(folder), {**ROOMY, **given}) as stack:
            tenants = tenants_of_all_partitions()
            keys = [stack.key(tenants[number % len(tenants)], str(uuid4())) for number in range(CALLERS)]
            door = Door(stack, provider.url, keys)
            door.warm()
            figures = []
            for streamed in (False, True):
                for at_once in AT_ONCE:
                    figures += door.measure(streamed, at_once, calls if at_once > 1 else calls // 20, turns)
            return [*figures, *door.beside_the_sdk(calls, turns)]


class Door:
    """Both ways to the provider."""

    def __init__(self, stack: Stack, provider: str, keys: list[str]) -> None:
        self._stack, self._provider, self._keys = stack, provider, keys

    def warm(self) -> None:
        """Everything is loaded on the way."""
        kept([], self._stack.ready["gateway_url"], CALLERS, 300, partial(self._asked, False), b"word ")

    def measure(self, streamed: bool, at_once: int, calls: int, turns: int) -> list[Figure]:
        """Rates, and how much later an answer is there."""
        loads: dict[str, list[Load]] = {"straight": [], "door": []}
        make = partial(self._asked, streamed)
        works: dict[str, Callable[[], float]] = {
            "straight": lambda: kept(loads["straight"], self._origin, at_once, 5 * calls, make, b"word "),
            "door": lambda: kept(loads["door"], self._stack.ready["gateway_url"], at_once, calls, make, b"word "),
        }
        rates = in_turns(works, turns)
        what = f"{'streamed' if streamed else 'whole'} answers, {at_once} at once"
        took = {way: [one for turn in turned for one in turn.took_ms] for way, turned in loads.items()}
        added = [quantile(took["door"], share) - quantile(took["straight"], share) for share in (0.5, 0.99)]
        return [
            rate(f"provider straight, {what}", "calls", rates["straight"]),
            rate(f"OpenAI door, {what}", "calls", rates["door"], "straight", rates["straight"]),
            Figure(
                f"OpenAI door, {what}: latency",
                f"{milliseconds(took['door'])}; later than straight by p50 {added[0]:.1f}, p99 {added[1]:.1f} ms",
                numbers={"added_p50_ms": added[0], "added_p99_ms": added[1]},
            ),
        ]

    def beside_the_sdk(self, calls: int, turns: int) -> list[Figure]:
        """CPU of a call: of the executor, which calls by the SDK, and of a loop that does nothing else."""
        spent: list[dict[str, float]] = []
        bare: list[float] = []
        for _ in range(turns):
            began = time.process_time()
            asyncio.run(self._by_sdk(calls))
            bare.append((time.process_time() - began) / calls * 1e6)
            with Spending(self._stack, spent, calls):
                kept([], self._stack.ready["gateway_url"], CALLERS, calls, partial(self._asked, False), b"word ")
        executor = [turn["executor"] for turn in spent]
        ratio = spread([one / of for one, of in zip(executor, bare, strict=True)])
        return [
            Figure("bare SDK call: CPU", f"{spread(bare).of()} µs", numbers={"us": spread(bare).median}),
            Figure("executor: CPU of a call", f"{spread(executor).of()} µs", "the bare SDK call", ratio),
            cpu_of("OpenAI door, whole answers, 64 at once", spent),
        ]

    async def _by_sdk(self, calls: int) -> None:
        left = iter(range(calls))
        async with AsyncOpenAI(base_url=self._provider, api_key="sk-bench", max_retries=0) as client:

            async def caller() -> None:
                for _ in left:
                    await client.chat.completions.create(
                        model="gpt-4o-mini", messages=[{"role": "user", "content": uuid4().hex}], max_tokens=30
                    )

            await asyncio.gather(*(caller() for _ in range(CALLERS)))

    @property
    def _origin(self) -> str:
        return self._provider.removesuffix("/v1")

    def whole(self, caller: int) -> Request:
        """A call whose answer comes as a whole."""
        return self._asked(False, caller)

    def _asked(self, streamed: bool, caller: int) -> Request:
        head = request("/v1/chat/completions", self._keys[caller % len(self._keys)])
        asked = {"model": "gpt-4o-mini", "max_tokens": 30, "messages": [{"role": "user", "content": uuid4().hex}]}
        return head, json.dumps(asked | ({"stream": True} if streamed else {})).encode()


if __name__ == "__main__":
    for figure in measure():
        print(figure)

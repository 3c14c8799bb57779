"""What every provider takes, gives and raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from shared.events.prices import Prices

Spend = Literal["certain", "none", "uncertain"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call to make."""

    provider: str
    model: str
    prompt: dict[str, Any]
    max_output_tokens: int | None
    timeout_s: float
    idempotency_key: str
    """The same for every attempt of one task, for providers that can tell a repeat by it."""
    attempt_id: str = ""
    """Of the recorded attempt, for providers whose own account can name it."""
    prices: Prices | None = None
    """What the decision says that the call is charged by."""
    created_s: int = 0
    """When it was begun, since the epoch: what an answer gives as its time, where its provider says none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: data, not yet trusted to be storable."""

    output_text: str
    input_tokens: int
    output_tokens: int
    cost: int | None
    """Nanocents; None where no price is known."""
    reasoning_trace: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """`completion`: the whole answer in OpenAI's shape (`chat.completion`, or a list of embeddings), tool calls and
    finish reason included; the OpenAI-compatible door gives it back."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was charged, by genai-prices' names."""
    prices: Prices | None = None
    """What the cost was computed by; None where the provider stated it, or nobody knows it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer: OpenAI's `chat.completion.chunk`, or an event of its Responses API."""

    body: dict[str, Any]
    raw: bytes
    """The same as JSON on one line: as it came, where the provider speaks this format."""


Hear = Callable[[Chunk], None]


class ProviderFailure(Exception):
    """A call that gave no answer: whose fault it was, whether it cost anything, and whether another try makes sense."""

    def __init__(
        self,
        kind: str,
        detail: str = "",
        *,
        spend: Spend = "none",
        counts_for_breaker: bool = True,
        retry: bool = False,
        retry_after_s: float | None = None,
        answer: Answer | None = None,
        asked: bool = True,
        status: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.spend: Spend = spend
        self.counts_for_breaker = counts_for_breaker
        self.retry = retry
        self.retry_after_s = retry_after_s
        self.asked = asked
        """False where the provider was not even asked."""
        self.answer = answer
        """What it cost all the same; only with spend `certain`."""
        self.status = status
        """Of the HTTP response, where one came."""


class Provider(Protocol):
    """Makes calls. Raises ProviderFailure; anything else counts as a failure after which nobody knows the cost."""

    async def call(self, call: Call) -> Answer:
        """One call. Bounded from outside; `call.timeout_s` is when nobody listens any more."""

    async def stream(self, call: Call, hear: Hear) -> Answer:
        """The same, with each piece given to `hear` as it comes. A failure after the first piece spent something.

        Cancelled, it lets the connection go at once, so that the provider stops.
        """

    async def embed(self, call: Call) -> Answer:
        """Embeddings of the prompt's `input`; `output_text` is empty."""

    async def close(self) -> None:
        """Let connections go."""


@runtime_checkable
class Responds(Protocol):
    """A provider that has OpenAI's Responses API."""

    async def respond(self, call: Call, hear: Hear | None) -> Answer:
        """One call, streamed where somebody hears. The `completion` of the answer's metadata is the response."""

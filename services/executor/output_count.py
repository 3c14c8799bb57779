"""How many tokens a streamed answer has so far: at least, to know when it passes its bound; at most, to pay it."""

from __future__ import annotations

from typing import Any

# No tokenizer makes more tokens than bytes. Over any length of text none packs more than these on average: eight where
# there are as many pieces, for a token is never sent in two of them unless somebody cut the text up again.
BYTES_OF_A_PIECE = 8
BYTES_AT_ALL = 16
# Made after the last piece that arrived, and before the provider noticed that nobody listens.
UNDER_WAY = 64
_NO_OUTPUT = frozenset({"role", "id", "type", "index"})


class OutputCount:
    """Counts what the chunks of one answer say."""

    def __init__(self) -> None:
        self._pieces = 0
        self._bytes = 0
        self._stated = 0

    def add(self, body: dict[str, Any]) -> None:
        """One more chunk."""
        usage = body.get("usage")
        stated = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if isinstance(stated, int):
            self._stated = max(self._stated, stated)
        self._add_event(body)
        choices = body.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            said = _bytes(choice.get("delta")) if isinstance(choice, dict) else 0
            self._bytes += said
            self._pieces += said > 0

    def _add_event(self, event: dict[str, Any]) -> None:
        """An event of the Responses API: what the model wrote is in its deltas."""
        if isinstance(delta := event.get("delta"), str):
            self._bytes += (said := _bytes(delta))
            self._pieces += said > 0
        response = event.get("response")
        usage = response.get("usage") if isinstance(response, dict) else None
        if isinstance(usage, dict) and isinstance(stated := usage.get("output_tokens"), int):
            self._stated = max(self._stated, stated)

    @property
    def at_least(self) -> int:
        """So many for certain."""
        return max(self._stated, self._bytes // BYTES_AT_ALL, min(self._pieces, self._bytes // BYTES_OF_A_PIECE))

    @property
    def is_stated(self) -> bool:
        """Whether the provider has said how many."""
        return self._stated > 0

    @property
    def at_most(self) -> int:
        """So many at most, as long as the model thinks aloud."""
        return max(self._stated, self._bytes) + UNDER_WAY


def _bytes(value: Any) -> int:
    """Bytes of all text in a delta that the model wrote."""
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, dict):
        return sum(_bytes(item) for name, item in value.items() if name not in _NO_OUTPUT)
    if isinstance(value, list):
        return sum(map(_bytes, value))
    return 0

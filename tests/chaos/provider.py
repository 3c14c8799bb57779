"""The provider of a chaos run: a process of its own that charges, fails as its mood is, and keeps an account on disk.

    python -m tests.chaos.provider --account FILE --seed N [--port N]

It prints its port, and serves until its standard input ends. Each call is in the account before it is answered, so the
account survives `kill -9`. `POST /mood {"mood": "failing"}` changes how it answers from now on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from tests.mock_provider import MockProvider, Reply

# US dollars a million tokens of gpt-4o-mini, in nanocents a token: the provider's own price list, not Skeldir's.
INPUT_NANOCENTS = 15_000
OUTPUT_NANOCENTS = 60_000
HANG_S = 60.0

MOODS: dict[str, dict[str, int]] = {
    "calm": {"answers": 70, "slow": 12, "drips": 4, "late": 2, "cut": 2, "unanswered": 1, "500": 3, "429": 4, "503": 2},
    "failing": {"answers": 20, "500": 40, "429": 20, "503": 20},
    "hanging": {"answers": 30, "slow": 20, "late": 20, "hangs": 20, "drips": 10},
    "cutting": {"answers": 30, "cut": 40, "unanswered": 30},
}
UNCHARGED = frozenset({"500", "429", "503"})
"""What charges nothing. Of a call that is cut off or hangs nobody is told: the work was done, and is charged."""


def behaviour(seed: int, attempt_id: str, mood: str) -> str:
    """How a call is answered: a function of the seed, the attempt and the mood."""
    kinds = MOODS[mood]
    return random.Random(f"{seed}/{attempt_id}").choices(list(kinds), list(kinds.values()))[0]


def reply_of(kind: str, tokens: tuple[int, int]) -> Reply:
    """The answer that `kind` names. Late: after the caller's patience, but while the call is still listened to."""
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    match kind:
        case "slow":
            return Reply(usage=usage, delay_s=0.5)
        case "drips":
            return Reply(usage=usage, drip_s=0.001)
        case "late":
            return Reply(usage=usage, delay_s=2.5)
        case "hangs":
            return Reply(usage=usage, delay_s=HANG_S)
        case "cut":
            return Reply(usage=usage, drop="in the middle")
        case "unanswered":
            return Reply(usage=usage, drop="unanswered")
        case "429":
            return Reply(status=429, headers={"retry-after-ms": "100"})
        case "500" | "503":
            return Reply(status=int(kind))
    return Reply(usage=usage, delay_s=0.02)


def charge(kind: str, tokens: tuple[int, int]) -> int:
    """Nanocents that the call costs."""
    return 0 if kind in UNCHARGED else tokens[0] * INPUT_NANOCENTS + tokens[1] * OUTPUT_NANOCENTS


class AccountingProvider(MockProvider):
    """The server, with its account."""

    def __init__(self, account: Path, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._mood = "calm"
        # Unbuffered: what was written survives the end of this process.
        self._account = os.open(account, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        """Enter the call, and answer it as the mood is."""
        if path == "/mood":
            self._mood = body["mood"]
            return Reply(body={})
        attempt_id = headers.get("x-client-request-id", "")
        kind = behaviour(self._seed, attempt_id, self._mood)
        chance = random.Random(f"tokens {self._seed}/{attempt_id}")
        tokens = chance.randint(1, 50), chance.randint(1, int(body["max_tokens"]))
        entry = {
            "at_ms": time.time() * 1000,
            "task_id": headers.get("idempotency-key", ""),
            "attempt_id": attempt_id,
            "kind": kind,
            "charged": charge(kind, tokens),
        }
        os.write(self._account, json.dumps(entry).encode() + b"\n")
        return reply_of(kind, tokens)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--account", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    provider = AccountingProvider(arguments.account, arguments.seed)
    provider.port = arguments.port
    with provider:
        print(provider.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

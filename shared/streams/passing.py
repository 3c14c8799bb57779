"""Problems of the log server that pass by themselves: whoever waits a moment may send the same command again."""

from __future__ import annotations

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as NoReply

# What the server says while it, or who takes over from it, is not ready yet.
PASSING = (
    ConnectionLost,
    NoReply,
    ReadOnlyError,
    OutOfMemoryError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
    OSError,
)
PASSING_CODES = ("NOREPLICAS", "MISCONF", "UNBLOCKED")


def passes(error: Exception) -> bool:
    """Whether the server may take the same command in a moment: it is not the command that it refused."""
    return isinstance(error, PASSING) or (isinstance(error, ResponseError) and str(error).startswith(PASSING_CODES))

"""The `skeldir` command, the embedded servers, what starts and watches the services, and a client for producers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skeldir.client import AsyncClient, Client, Pending, SkeldirError

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Pending", "SkeldirError"]


def __getattr__(name: str) -> Any:
    """The client, when somebody asks for it: the command line starts without its libraries."""
    if name in __all__:
        from skeldir import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Providers behind one small protocol. A new one is a file here, and a line in `by_name`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from services.executor.providers.protocol import Answer, Call, Chunk, Hear, Provider, ProviderFailure, Responds
from services.executor.providers.stub import StubProvider
from services.executor.providers.unconfigured import Unconfigured
from shared.models import OPENAI, STUB

__all__ = ["Answer", "Call", "Chunk", "Hear", "Provider", "ProviderFailure", "Responds", "by_name"]


def by_name(environ: Mapping[str, str] = os.environ) -> Mapping[str, Provider]:
    """The providers, by the name that stands before the colon of a model."""
    return {STUB: StubProvider(), OPENAI: _openai(environ)}


def _openai(environ: Mapping[str, str]) -> Provider:
    if not environ.get("OPENAI_API_KEY"):
        return Unconfigured("OPENAI_API_KEY")
    # Its SDK takes a second of processor time to import: who has no key for it does not wait for that.
    from services.executor.providers.openai import OpenAIProvider

    return OpenAIProvider()

"""Providers behind one small protocol. A new one is a file here, and a line in `by_name`."""

from __future__ import annotations

from collections.abc import Mapping

from services.executor.providers.openai import OpenAIProvider
from services.executor.providers.protocol import Answer, Call, Provider, ProviderFailure
from services.executor.providers.stub import StubProvider
from shared.models import OPENAI, STUB

__all__ = ["Answer", "Call", "Provider", "ProviderFailure", "by_name"]


def by_name() -> Mapping[str, Provider]:
    """The providers, by the name that stands before the colon of a model."""
    return {STUB: StubProvider(), OPENAI: OpenAIProvider()}

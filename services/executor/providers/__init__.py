"""Providers behind one small protocol. A new one is a file here, and a line in `by_name`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from services.executor.providers.keys import keys_in
from services.executor.providers.protocol import Answer, Call, Chunk, Hear, Provider, ProviderFailure, Responds
from services.executor.providers.stub import StubProvider
from services.executor.providers.unconfigured import Unconfigured
from shared.models import ANTHROPIC, GEMINI, OPENAI, STUB
from shared.settings import Settings

__all__ = ["Answer", "Call", "Chunk", "Hear", "Provider", "ProviderFailure", "Responds", "by_name"]

# What a server that asks for no key is given: the SDK insists on one.
NO_KEY = "none"


def by_name(settings: Settings, environ: Mapping[str, str] = os.environ) -> Mapping[str, Provider]:
    """The providers, by the name that stands before the colon of a model."""
    known: dict[str, Provider] = {STUB: StubProvider(), OPENAI: _openai("OPENAI_API_KEY", None, environ)}
    known[ANTHROPIC] = _anthropic(environ)
    known[GEMINI] = _gemini(environ)
    for name, one in settings.openai_compatible.items():
        known[name] = _openai(one.key_env, one.base_url, environ)
    return known


def _openai(variable: str | None, base_url: str | None, environ: Mapping[str, str]) -> Provider:
    keys = [NO_KEY] if variable is None else keys_in(environ.get(variable))
    if not keys:
        return Unconfigured(str(variable))
    # Its SDK takes a second of processor time to import: who has no key for it does not wait for that.
    from services.executor.providers.openai import OpenAIProvider

    return OpenAIProvider(keys, base_url)


def _anthropic(environ: Mapping[str, str]) -> Provider:
    if not (keys := keys_in(environ.get("ANTHROPIC_API_KEY"))):
        return Unconfigured("ANTHROPIC_API_KEY")
    from services.executor.providers.anthropic import AnthropicProvider

    return AnthropicProvider(keys)


def _gemini(environ: Mapping[str, str]) -> Provider:
    # The SDK's own order.
    if not (keys := keys_in(environ.get("GOOGLE_API_KEY")) or keys_in(environ.get("GEMINI_API_KEY"))):
        return Unconfigured("GEMINI_API_KEY")
    from services.executor.providers.gemini import GeminiProvider

    return GeminiProvider(keys)

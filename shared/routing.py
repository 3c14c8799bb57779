"""Which model a task means: a bare name goes where a route says, else to the default provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from shared.models import DEFAULT_MODELS, OPENAI, PROVIDERS, STUB
from shared.settings import Settings


def providers_of(settings: Settings) -> frozenset[str]:
    """The names that may stand before the colon of a model."""
    return PROVIDERS | frozenset(settings.openai_compatible)


def price_lists_of(settings: Settings) -> dict[str, str]:
    """Which published list a provider charges by, where that is not the one of its own name."""
    return {name: one.prices for name, one in settings.openai_compatible.items() if one.prices}


def resolve(model: str | None, settings: Settings, environ: Mapping[str, str]) -> tuple[str, str]:
    """The provider and the model that a task means. An unknown provider is kept as it is: policy refuses it."""
    provider, colon, name = (model or "").partition(":")
    if colon and name:
        return provider, name
    for pattern, target in settings.model_routes.items() if model else ():
        if fnmatchcase(model or "", pattern):
            provider, _, name = target.partition(":")
            return provider, name or model or ""
    default = settings.default_provider or (OPENAI if environ.get("OPENAI_API_KEY") else STUB)
    if model:
        return default, model
    if settings.default_model:
        return resolve(settings.default_model, settings.model_copy(update={"default_model": None}), environ)
    return default, DEFAULT_MODELS.get(default, "model")


def alternatives_to(provider: str, model: str, fallbacks: Mapping[str, Sequence[str]]) -> list[str]:
    """The models (`provider:model`) to be asked in place of this one, in their order. The first match counts."""
    named = f"{provider}:{model}"
    for pattern, others in fallbacks.items():
        if fnmatchcase(named if ":" in pattern else model, pattern):
            return [one for one in dict.fromkeys(others) if one != named]
    return []

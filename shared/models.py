"""Models are named `provider:model`; a bare name goes to the default provider."""

from __future__ import annotations

from collections.abc import Mapping

from shared.settings import Settings

STUB = "stub"
OPENAI = "openai"
PROVIDERS = frozenset({STUB, OPENAI})
DEFAULT_MODELS = {STUB: "model", OPENAI: "gpt-4o-mini"}


def resolve(model: str | None, settings: Settings, environ: Mapping[str, str]) -> tuple[str, str]:
    """The provider and the model that a task means. An unknown provider is kept as it is: policy refuses it."""
    provider, colon, name = (model or "").partition(":")
    if colon and name:
        return provider, name
    default = settings.default_provider or (OPENAI if environ.get("OPENAI_API_KEY") else STUB)
    if model:
        return default, model
    if settings.default_model:
        return resolve(settings.default_model, settings.model_copy(update={"default_model": None}), environ)
    return default, DEFAULT_MODELS.get(default, "model")

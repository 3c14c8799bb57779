"""Models are named `provider:model`; a bare name goes where a route says, else to the default provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from shared.settings import Settings

STUB = "stub"
OPENAI = "openai"
ANTHROPIC = "anthropic"
GEMINI = "gemini"
PROVIDERS = frozenset({STUB, OPENAI, ANTHROPIC, GEMINI})
# By what their names begin with: they think before they answer, and what they think is paid for and not shown.
REASONING_MODELS = ("o1", "o3", "o4", "gpt-5")
# Google's that do not think unless a prompt asks for it.
ANSWERS_AT_ONCE = ("gemini-1", "gemini-2.0", "gemini-2.5-flash-lite")
# Of Anthropic's, those that think only if a prompt asks for it. Any other may think unasked, and show less than costs.
THINKS_IF_ASKED = (
    "claude-3", "claude-haiku-4-5", "claude-sonnet-4",
    "claude-opus-4-0", "claude-opus-4-1", "claude-opus-4-2025", "claude-opus-4-5", "claude-opus-4-6",
)  # fmt: skip
DEFAULT_MODELS = {STUB: "model", OPENAI: "gpt-4o-mini", ANTHROPIC: "claude-haiku-4-5", GEMINI: "gemini-2.5-flash"}


class CompatibleProvider(BaseModel):
    """A further provider that speaks OpenAI's wire format."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field(pattern=r"^https?://[^\s]+$")
    key_env: str | None = Field(None, min_length=1)
    """Variable of the executor's environment that holds its key, or several with commas; None: it takes none."""
    prices: str | None = None
    """Provider of genai-prices by whose list it charges; None: that of its own name, if there is one."""


ProviderName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$")]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,49}:[^\s]+$", max_length=250)]
"""`provider:model`."""


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

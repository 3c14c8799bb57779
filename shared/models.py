"""Models, their providers and how they are named: `provider:model`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

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

"""What of a prompt goes to a provider. Pure."""

from __future__ import annotations

from typing import Any

from services.executor.providers.protocol import ProviderFailure

# Ours, or the stub's: never sent to a provider.
NOT_SENT = frozenset(
    {
        "model", "input", "text", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options",
        "cache_enabled", "cache_watermark", "kill_switch", "retry_safe", "raise_error",
    }
)  # fmt: skip


def messages_of(prompt: dict[str, Any]) -> Any:
    """`messages`, else `input` or `text` as the user's words. Raises ProviderFailure, which is the caller's fault."""
    messages = prompt.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
        return messages
    text = prompt.get("input", prompt.get("text"))
    if messages or not isinstance(text, str):
        problem = "give messages (a list of objects), input or text (a string)"
        raise ProviderFailure("InvalidPrompt", problem, counts_for_breaker=False, asked=False)
    return [{"role": "user", "content": text}]


def asked_of(prompt: dict[str, Any]) -> dict[str, Any]:
    """What the caller asked for beside the messages and the output's bound."""
    return {name: value for name, value in prompt.items() if name not in NOT_SENT and not name.startswith("simulated_")}


def not_supported(problem: str) -> ProviderFailure:
    """The caller asks for what this provider does not have; it was not asked, and nothing was spent."""
    return ProviderFailure("NotSupported", problem, counts_for_breaker=False, asked=False)

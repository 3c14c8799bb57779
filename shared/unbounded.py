"""What a call may cost by other measures than text tokens at the model's listed price: told by the fields that ask.

Pure; `shared/pricing.py` refuses such calls, since no reservation would be a true bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# `auto` may mean `priority` where the account is set so; these cost the listed price or less.
STANDARD_TIERS = (None, "default", "flex", "standard_only")
FUNCTION_TOOLS = (None, "function", "custom")
# Fields of OpenAI-compatible servers that let the call go to another model, or do more than answer.
FIELDS = {
    "audio": "audio",
    "web_search_options": "a web search",
    "models": "another model",
    "plugins": "a plugin",
    "speed": "another speed",
    "inference_geo": "another region",
    "mcp_servers": "a remote tool",
    "container": "a container",
    "cached_content": "cached content",
    "search_parameters": "a web search",
}
# Of the Responses API: what is kept at the provider has a size that nobody here knows, and what runs on has no end.
STORED_FIELDS = {
    "previous_response_id": "a conversation that the provider keeps",
    "conversation": "a conversation that the provider keeps",
    "prompt": "a prompt that the provider keeps",
    "background": "a call in the background",
}
PARTS = frozenset({"text", "refusal", "image_url", "input_text", "output_text", "input_image"})
IMAGES = frozenset({"image_url", "input_image"})
ITEMS = frozenset(
    {
        None, "message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output",
        "reasoning",
    }
)  # fmt: skip


def what(prompt: Mapping[str, Any]) -> str | None:
    """What cannot be bounded, in words; None where all can."""
    for part in parts(prompt):
        if (kind := _kind(part)) not in PARTS:
            return f"a part of type {kind!r}"
    spoken = any(message.get("audio") is not None for message in items(prompt))
    if spoken or prompt.get("modalities") not in (None, ["text"]):
        return "audio"
    for tool in _list(prompt.get("tools")):
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if not isinstance(tool, dict) or kind not in FUNCTION_TOOLS:
            return f"a tool of type {kind!r}"
    for name, meaning in FIELDS.items():
        if prompt.get(name) is not None:
            return meaning
    if (tier := prompt.get("service_tier")) not in STANDARD_TIERS:
        return f"service tier {tier!r}"
    return None


def what_of_response(prompt: Mapping[str, Any]) -> str | None:
    """As `what`, of a request to the Responses API."""
    for name, meaning in STORED_FIELDS.items():
        if prompt.get(name):
            return meaning
    for item in _list(prompt.get("input")):
        if not isinstance(item, dict):
            return f"an item of type {item!r}"
        if (kind := _kind(item)) not in ITEMS:
            return f"an item of type {kind!r}"
    return what(prompt)


def images(prompt: Mapping[str, Any]) -> int:
    """How many images the prompt has."""
    return sum(_kind(part) in IMAGES for part in parts(prompt))


def inline_image_bytes(prompt: Mapping[str, Any]) -> int:
    """How many bytes of the prompt are images that stand in it (`data:image/...;base64,...`); at least so many."""
    found = 0
    for part in parts(prompt):
        if _kind(part) in IMAGES:
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str) and url.startswith("data:image/"):
                found += len(url)
    return found


def items(prompt: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a chat, or the items of a response's input."""
    both = (*_list(prompt.get("messages")), *_list(prompt.get("input")))
    return [item for item in both if isinstance(item, dict)]


def parts(prompt: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of all messages, and of the outputs of tools."""
    for item in items(prompt):
        if item.get("type") != "reasoning":
            for part in (*_list(item.get("content")), *_list(item.get("output"))):
                if isinstance(part, dict):
                    yield part


def _kind(item: Mapping[str, Any]) -> str | None:
    """What type a part or an item says that it is; one that says it by anything but a word is of none that is known."""
    said = item.get("type")
    return said if said is None or isinstance(said, str) else repr(said)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

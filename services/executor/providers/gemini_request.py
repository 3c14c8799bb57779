"""From a prompt in OpenAI's shape to a request in Gemini's. Pure. What cannot be said in it, or bounded, is refused."""

from __future__ import annotations

import re
from typing import Any

import orjson

from services.executor.providers.prompt import asked_of, messages_of, not_supported
from services.executor.providers.protocol import Call

DEFAULT_MAX_TOKENS = 1024
# Hints that Gemini has no counterpart for: the answer is of the same form without them.
HINTS = frozenset(
    {
        "logit_bias", "store", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "verbosity",
        "prediction", "metadata", "modalities", "service_tier", "user", "n",
    }
)  # fmt: skip
# OpenAI's and Google's names of what is a number or a list of the generation's settings.
SETTINGS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "thinking_config": "thinkingConfig",
}
CHOICES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
SYSTEM = ("system", "developer")
# How many tokens an effort may think, for models that are told a number; Google's own translation of OpenAI's requests.
BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
# The name is a part of the address: no other character may make another address, or method, of it.
_MODEL = re.compile(r"((models|tunedModels)/)?[A-Za-z0-9][A-Za-z0-9._-]*")
_BUDGETED = ("gemini-2.5", "models/gemini-2.5")


def request_of(call: Call) -> dict[str, Any]:
    """The body, as it goes over the wire. Raises ProviderFailure (NotSupported)."""
    if not _MODEL.fullmatch(call.model) or ".." in call.model:
        raise not_supported(f"Gemini can have no model of the name {call.model!r}")
    asked = {name: value for name, value in asked_of(call.prompt).items() if value is not None}
    if asked.get("n") not in (None, 1):
        raise not_supported("Gemini gives one answer here: leave out n")
    messages = messages_of(call.prompt)
    settings: dict[str, Any] = {"maxOutputTokens": call.max_output_tokens or DEFAULT_MAX_TOKENS}
    body: dict[str, Any] = {"contents": _turns(messages), "generationConfig": settings}
    if system := [part for message in messages if message.get("role") in SYSTEM for part in _parts(message)]:
        body["systemInstruction"] = {"parts": system}
    for name, value in asked.items():
        if name in HINTS:
            continue
        if name in SETTINGS:
            settings[SETTINGS[name]] = value
        elif name == "stop":
            settings["stopSequences"] = [value] if isinstance(value, str) else value
        elif name == "response_format":
            settings |= _form(value)
        elif name == "reasoning_effort":
            settings.setdefault("thinkingConfig", _thinking(call.model, value))
        elif name == "tools":
            body["tools"] = [{"functionDeclarations": [_declared(tool) for tool in _list(value, "tools")]}]
        elif name == "tool_choice":
            body["toolConfig"] = {"functionCallingConfig": _choice(value)}
        elif name == "safety_settings":
            body["safetySettings"] = value
        elif name != "parallel_tool_calls" or value is False:
            # What Google makes of what we do not know might cost more than is reserved: stored contexts, searches.
            raise not_supported(f"Gemini is not sent {name}: leave it out")
    return body


def _turns(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """User and model in turn: results of functions are the user's, and all of one turn belong together."""
    turns: list[dict[str, Any]] = []
    named: dict[Any, Any] = {}
    for message in messages:
        role = message.get("role")
        if role in SYSTEM:
            continue
        if role == "tool":
            parts = [_result(message, named)]
        elif role in ("user", "assistant"):
            parts = _parts(message) + [
                _called(one, named) for one in _list(message.get("tool_calls") or [], "tool_calls")
            ]
        else:
            raise not_supported(f"Gemini knows no message of role {role!r}")
        speaker = "model" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": speaker, "parts": parts})
    return turns


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"text": content}] if content else []
    if content is None:
        return []
    return [_part(part) for part in _list(content, "the content of a message")]


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {"text": part.get("text")}
    if kind == "refusal":
        return {"text": part.get("refusal")}
    if kind == "image_url":
        image = part.get("image_url")
        return {"inlineData": _inline(image.get("url") if isinstance(image, dict) else image)}
    raise not_supported(f"Gemini is not sent a part of type {kind!r}")


def _inline(url: Any) -> dict[str, Any]:
    """Only images: what a page or a second of something else counts is not reserved."""
    kind, base64, data = url.removeprefix("data:").partition(";base64,") if isinstance(url, str) else ("", "", "")
    if not base64 or not kind.startswith("image/"):
        raise not_supported("Gemini is given an image as a data: URL (data:image/png;base64,...)")
    return {"mimeType": kind, "data": data}


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise not_supported(f"{what}: not a list")
    return value


def _called(called: Any, named: dict[Any, Any]) -> dict[str, Any]:
    function = called.get("function") if isinstance(called, dict) else None
    if not isinstance(function, dict):
        raise not_supported("Gemini has calls of functions only")
    try:
        given = orjson.loads(function.get("arguments") or b"{}")
    except (orjson.JSONDecodeError, TypeError) as error:
        raise not_supported(f"the arguments of a tool call are not JSON: {error}") from error
    if isinstance(identity := called.get("id"), str):
        named[identity] = function.get("name")
    part: dict[str, Any] = {"functionCall": {"name": function.get("name"), "args": given}}
    if (signature := _signature(called)) is not None:
        part["thoughtSignature"] = signature
    return part


def _signature(called: dict[str, Any]) -> Any:
    """What the model wants to see again with its call, where Google's own OpenAI-compatible API puts it."""
    extra = called.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    return google.get("thought_signature") if isinstance(google, dict) else None


def _result(message: dict[str, Any], named: dict[Any, Any]) -> dict[str, Any]:
    identity = message.get("tool_call_id")
    name = named.get(identity) if isinstance(identity, str) else None
    if name is None:
        raise not_supported(f"a tool's result answers no call before it: tool_call_id {identity!r}")
    text = "".join(str(part.get("text") or "") for part in _parts(message))
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        given = text
    return {"functionResponse": {"name": name, "response": given if isinstance(given, dict) else {"result": given}}}


def _declared(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        raise not_supported("Gemini is given functions as tools, and no tools of its own: these cannot be bounded")
    found = {"name": function.get("name")}
    if function.get("description") is not None:
        found["description"] = function["description"]
    if function.get("parameters"):
        found["parametersJsonSchema"] = function["parameters"]
    return found


def _choice(choice: Any) -> dict[str, Any]:
    if isinstance(choice, str) and choice in CHOICES:
        return {"mode": CHOICES[choice]}
    if isinstance(choice, dict) and isinstance(function := choice.get("function"), dict):
        return {"mode": "ANY", "allowedFunctionNames": [function.get("name")]}
    raise not_supported(f"Gemini has no tool_choice {choice!r}")


def _form(form: Any) -> dict[str, Any]:
    kind = form.get("type") if isinstance(form, dict) else form
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"responseMimeType": "application/json"}
    if kind == "json_schema":
        schema = form.get("json_schema")
        given = schema.get("schema") if isinstance(schema, dict) else None
        return {"responseMimeType": "application/json", "responseJsonSchema": given}
    raise not_supported(f"Gemini has no response_format {kind!r}: give a json_schema or json_object")


def _thinking(model: str, effort: Any) -> dict[str, Any]:
    if not isinstance(effort, str) or effort not in BUDGETS:
        raise not_supported(f"reasoning_effort is one of {', '.join(BUDGETS)} for Gemini")
    if model.startswith(_BUDGETED):
        return {"thinkingBudget": BUDGETS[effort]}
    return {"thinkingLevel": "minimal" if effort == "none" else effort}

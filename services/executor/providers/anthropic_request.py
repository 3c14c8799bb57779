"""From a prompt in OpenAI's shape to a request in Anthropic's. Pure. What cannot be said in it is refused."""

from __future__ import annotations

from typing import Any

import orjson

from services.executor.providers.prompt import asked_of, messages_of, not_supported
from services.executor.providers.protocol import Call

DEFAULT_MAX_TOKENS = 1024
# Hints that Anthropic has no counterpart for: the answer is of the same form without them.
HINTS = frozenset(
    {
        "frequency_penalty", "presence_penalty", "logit_bias", "seed", "store", "prompt_cache_key",
        "safety_identifier", "verbosity", "prediction", "metadata", "n", "modalities", "prompt_cache_retention",
    }
)  # fmt: skip
# These ask for another form of answer.
FORMS = ("logprobs", "top_logprobs", "functions", "function_call")
EFFORTS = {"minimal": "low"}
SYSTEM = ("system", "developer")


def request_of(call: Call) -> dict[str, Any]:
    """The body but for model, messages and max_tokens' own arguments. Raises ProviderFailure (NotSupported)."""
    asked = asked_of(call.prompt)
    _check(asked)
    messages = messages_of(call.prompt)
    body = {
        name: value for name, value in asked.items() if name not in HINTS and name not in FORMS and value is not None
    }
    system = [block for message in messages if message.get("role") in SYSTEM for block in _blocks(message)]
    if system:
        body["system"] = system
    if (user := body.pop("user", None)) is not None:
        body["metadata"] = {"user_id": user}
    if (stop := body.pop("stop", None)) is not None:
        body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if body.pop("service_tier", None) is not None:
        body["service_tier"] = "standard_only"
    if (tools := body.pop("tools", None)) is not None:
        body["tools"] = [_tool(tool) for tool in _list(tools, "tools")]
    if choice := _tool_choice(body.pop("tool_choice", None), body.pop("parallel_tool_calls", None)):
        body["tool_choice"] = choice
    if output := _output(body.pop("response_format", None), body.pop("reasoning_effort", None)):
        body["output_config"] = output | (own if isinstance(own := body.get("output_config"), dict) else {})
    body["messages"] = _turns(messages)
    body["max_tokens"] = call.max_output_tokens or DEFAULT_MAX_TOKENS
    return body


def _check(asked: dict[str, Any]) -> None:
    for name in FORMS:
        if asked.get(name):
            raise not_supported(f"Anthropic has no {name}")
    if asked.get("n") not in (None, 1):
        raise not_supported("Anthropic gives one answer: leave out n")


def _turns(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """User and assistant in turn: results of tools are the user's, and all of one turn belong together."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message.get("role")
        if role in SYSTEM:
            continue
        if role == "tool":
            blocks = [_result(message)]
        elif role in ("user", "assistant"):
            blocks = _blocks(message) + [_use(one) for one in _list(message.get("tool_calls") or [], "tool_calls")]
        else:
            raise not_supported(f"Anthropic knows no message of role {role!r}")
        speaker = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": speaker, "content": blocks})
    return turns


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if content is None:
        return []
    return [_block(part) for part in _list(content, "the content of a message")]


def _block(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return dict(part)
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    if kind == "image_url":
        image = part.get("image_url")
        return {"type": "image", "source": _source(image.get("url") if isinstance(image, dict) else image)}
    raise not_supported(f"Anthropic is not sent a part of type {kind!r}")


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise not_supported(f"{what}: not a list")
    return value


def _source(url: Any) -> dict[str, Any]:
    if isinstance(url, str) and url.startswith("data:"):
        kind, _, data = url.removeprefix("data:").partition(";base64,")
        return {"type": "base64", "media_type": kind, "data": data}
    return {"type": "url", "url": url}


def _result(message: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": _blocks(message)}


def _use(called: Any) -> dict[str, Any]:
    function = called.get("function") if isinstance(called, dict) else None
    if not isinstance(function, dict):
        raise not_supported("Anthropic has calls of functions only")
    try:
        given = orjson.loads(function.get("arguments") or b"{}")
    except (orjson.JSONDecodeError, TypeError) as error:
        raise not_supported(f"the arguments of a tool call are not JSON: {error}") from error
    return {"type": "tool_use", "id": called.get("id"), "name": function.get("name"), "input": given}


def _tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise not_supported("a tool is an object")
    function = tool.get("function")
    if not isinstance(function, dict):
        if "input_schema" in tool:
            return tool
        raise not_supported(f"Anthropic has no tool of type {tool.get('type')!r}")
    found = {"name": function.get("name"), "input_schema": function.get("parameters") or {"type": "object"}}
    return found | {name: function[name] for name in ("description", "strict") if function.get(name) is not None}


def _tool_choice(choice: Any, parallel: Any) -> dict[str, Any] | None:
    one: dict[str, Any]
    if choice is None and parallel is not False:
        return None
    if isinstance(choice, dict) and isinstance(function := choice.get("function"), dict):
        one = {"type": "tool", "name": function.get("name")}
    elif choice is None or (isinstance(choice, str) and choice in ("auto", "none", "required")):
        one = {"type": "any" if choice == "required" else choice or "auto"}
    elif isinstance(choice, dict) and choice.get("type") in ("auto", "any", "tool", "none"):
        one = dict(choice)
    else:
        raise not_supported(f"Anthropic has no tool_choice {choice!r}")
    return one | ({"disable_parallel_tool_use": True} if parallel is False and one["type"] != "none" else {})


def _output(form: Any, effort: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    kind = form.get("type") if isinstance(form, dict) else form
    if kind == "json_schema":
        schema = form.get("json_schema")
        found["format"] = {"type": "json_schema", "schema": schema.get("schema") if isinstance(schema, dict) else None}
    elif kind is not None and kind != "text":
        raise not_supported(f"Anthropic has no response_format {kind!r}: give a json_schema")
    if effort is not None and effort != "none":
        found["effort"] = EFFORTS.get(effort, effort) if isinstance(effort, str) else effort
    return found

"""`submit`: one task, over HTTP where a gateway and a key are known, else by the inbox."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
import orjson
import typer
from redis.asyncio import Redis
from rich.table import Table

from services.gateway.submission import Invalid, parse
from shared.events.results import WHAT_TO_DO, TaskResult
from shared.events.tasks import task_id_of
from shared.partitions import INBOX, partition_for
from shared.settings import Settings
from shared.streams.partition_count import look
from skeldir.cli.context import (
    CommandError,
    Json,
    as_text,
    find_running,
    load_settings,
    out,
    print_json,
    redis_url,
    same_server,
    uuid,
    with_redis,
)

LOOK_S = 0.05


def submit(
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="route, explanation, investigation, ...")],
    prompt: Annotated[str, typer.Option(help="A JSON object, or @FILE.")],
    model: Annotated[
        str | None, typer.Option(help="`provider:model`; without it the prompt's, or the default.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, max=86_400, help="Seconds to wait for the result.")] = 0.0,
    request_id: Annotated[str | None, typer.Option(help="Your own id; the same id gives the same answer.")] = None,
    max_cost_cents: Annotated[str | None, typer.Option(help="The most it may cost.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant (inbox only: a key names its own).")] = None,
    user: Annotated[str | None, typer.Option(help="The user, where the key names none.")] = None,
    as_json: Json = False,
) -> None:
    """Submit one task. Exit 0 for a success or a pending task, 1 for a blocked or failed one."""
    settings = load_settings()
    asked = _prompt(prompt) | ({} if model is None else {"model": model})
    # An empty id is refused as over HTTP: whoever gave one, from a variable perhaps, counts on its being sent once.
    named = str(uuid4()) if request_id is None else request_id
    task: dict[str, Any] = {"task_type": task_type, "prompt": asked, "request_id": named}
    given = {"max_cost_cents": max_cost_cents, "user_id": user and str(uuid(user, "--user"))}
    task |= {name: value for name, value in given.items() if value is not None}
    body = orjson.dumps(task)
    try:
        parse(body, settings.max_body_bytes, settings.max_body_depth)
    except Invalid as error:
        raise CommandError(str(error)) from error
    found = find_running(settings)
    if found and settings.redis_url and not same_server(settings.redis_url, found.redis_url):
        found = None  # another system than the one that is configured
    url = settings.gateway_url or (found.gateway_url if found else None)
    key = settings.api_key.get_secret_value() if settings.api_key else (found.api_key if found else None)
    if url and key:
        if uuid(tenant, "--tenant") not in (None, found and found.tenant_id):
            raise CommandError("--tenant is for the inbox: a key names its own tenant, so leave it out")
        result = _over_http(url, key, body, wait)
    else:
        result = _by_inbox(task, tenant, wait)
    if as_json:
        print_json(result)
    else:
        _show(result, found.ledger_url if found and url == found.gateway_url else None)
    raise typer.Exit(1 if result["status"] in ("blocked", "failed") else 0)


def _over_http(url: str, key: str, body: bytes, wait: float) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    if wait:
        headers["Prefer"] = f"wait={wait:g}"
    try:
        reply = httpx.post(f"{url}/v1/tasks", content=body, headers=headers, timeout=wait + 10, trust_env=False)
    except httpx.HTTPError as error:
        raise CommandError(f"the gateway at {url} cannot be reached: {error}") from error
    if reply.status_code >= 400:
        problem = reply.json() if "json" in reply.headers.get("content-type", "") else {}
        raise CommandError(f"{problem.get('code', reply.status_code)}: {problem.get('detail', reply.text[:200])}")
    answer: dict[str, Any] = reply.json()
    return answer


def _by_inbox(task: dict[str, Any], tenant: str | None, wait: float) -> dict[str, Any]:
    tenant_id = uuid(tenant, "--tenant")
    if tenant_id is None or "user_id" not in task:
        redis_url(load_settings())  # where nothing runs, that is what to say
        raise CommandError("without a gateway key the task goes to the inbox: give --tenant and --user")

    async def append(redis: Redis, settings: Settings) -> dict[str, Any]:
        await redis.xadd(INBOX, {"data": orjson.dumps({**task, "tenant_id": str(tenant_id)})})
        request = parse(orjson.dumps(task), settings.max_body_bytes, settings.max_body_depth)
        task_id = task_id_of(tenant_id, request.task_type, task["request_id"])
        result = await _await_result(redis, settings, tenant_id, task_id, wait) if wait else None
        if result is not None:
            return result.model_dump(mode="json")
        return {"task_id": str(task_id), "request_id": task["request_id"], "status": "pending"}

    return with_redis(append)


async def _await_result(
    redis: Redis, settings: Settings, tenant_id: UUID, task_id: UUID, wait: float
) -> TaskResult | None:
    record = partition_for(tenant_id, await look(redis, settings)).task(task_id)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    while loop.time() < deadline:
        stored = await redis.hget(record, "result")
        if stored:
            return TaskResult.model_validate_json(stored)
        await asyncio.sleep(LOOK_S)
    return None


def _prompt(text: str) -> dict[str, Any]:
    try:
        source = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
        prompt = orjson.loads(source)
    except OSError as error:
        raise CommandError(f"--prompt names the file {text[1:]!r}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise CommandError(f'--prompt is a JSON object, as \'{{"text": "Hello"}}\', or @FILE: {error}') from error
    if not isinstance(prompt, dict):
        raise CommandError("--prompt is a JSON object")
    return prompt


def _show(result: dict[str, Any], ledger_url: str | None) -> None:
    """The result; of one that gave no answer also where its reason is told in full, if a console is known."""
    table = Table.grid(padding=(0, 2))
    for name, value in result.items():
        if name == "usage":
            for part, amount in value.items():
                table.add_row(part, str(amount))
        elif value not in (None, ""):
            table.add_row(name, as_text(value))
    if (advice := WHAT_TO_DO.get(str(result.get("blocked_reason") or result.get("failure_reason")))) is not None:
        table.add_row("", advice)
    out.print(table)
    if ledger_url and result["status"] in ("blocked", "failed"):
        out.print(f"why: {ledger_url}/console#/requests/{result['task_id']}", soft_wrap=True)

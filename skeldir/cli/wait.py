"""`wait`: until services are ready."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import httpx
import typer

from skeldir.cli.context import CommandError, find_running, load_settings, out

LOOK_S = 0.2
TIMEOUT_S = 5.0


def wait(
    urls: Annotated[
        list[str] | None, typer.Argument(metavar="[URL]...", help="Services. Default: gateway and ledger of `up`.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, max=86_400, help="Give up after so long.")] = 60.0,
) -> None:
    """Until each of them is ready. Exit 1 where one is not in time; its problems are printed."""
    problems = asyncio.run(_until_ready([_checked(url) for url in urls or _running()], seconds))
    for url, problem in problems.items():
        out.print(f"{url} is not ready: {problem}", markup=False, soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise CommandError(f"{url!r} is no URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise CommandError(f"{url!r} is no URL of a service: give one like http://127.0.0.1:8080")
    return url


def _running() -> list[str]:
    found = find_running(load_settings())
    if found is None:
        raise CommandError("no system is running here: give the URLs of the services")
    return [found.gateway_url, found.ledger_url]


async def _until_ready(urls: list[str], seconds: float) -> dict[str, str]:
    """Those that are not ready in time, with what they say."""
    deadline, waiting = time.monotonic() + seconds, dict.fromkeys(urls, "it was not asked yet")
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
        while True:
            waiting = {url: problem for url in waiting if (problem := await _problem(client, url))}
            if not waiting or time.monotonic() >= deadline:
                return waiting
            await asyncio.sleep(LOOK_S)


async def _problem(client: httpx.AsyncClient, url: str) -> str | None:
    try:
        reply = await client.get(f"{url.rstrip('/')}/readyz")
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return None if reply.status_code == 200 else reply.text[:500]

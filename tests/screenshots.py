"""The pictures of the console in docs/images, made again: `python -m tests.screenshots` (or `make screenshots`).

A system of its own, with calls on the stub: those of the last minutes went through it while this ran, and those of the
four weeks before were written into the books. Needs Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from playwright.sync_api import Page, expect, sync_playwright

from tests.browsers import FLAGS, chromium_path
from tests.stack import Stack

IMAGES = Path(__file__).parents[1] / "docs" / "images"
TENANTS = [UUID(int=random.Random(n).getrandbits(128), version=4) for n in range(6)]
# More on working days and by day; each tenant has its own size; the last whole hour of the first is far too dear.
_PAST = """
INSERT INTO llm_api_calls (
  id, tenant_id, user_id, endpoint, request_id, task_type, provider, model, created_at, updated_at, end_stamp, ended_at,
  status, block_reason, failure_reason, was_cached, end_attempted, end_cost_cents, usage_stamp, input_tokens,
  output_tokens, latency_ms)
SELECT id, tenant, md5(tenant::text || (n % 7))::uuid, 'app.tasks.llm.' || task_type, 'nightly-' || left(id::text, 18),
  task_type, split_part(model, ':', 1), split_part(model, ':', 2), at, at, id, at + interval '2 s', status,
  CASE WHEN status = 'blocked' THEN (ARRAY['monthly_cap_exceeded', 'breaker_open', 'quota_exceeded'])[1 + n % 3] END,
  CASE WHEN status = 'failed' THEN 'provider_timeout' END, status = 'success' AND dice < 0.12, status = 'failed'
  OR status = 'success' AND dice >= 0.12,
  CASE WHEN status = 'success' AND dice >= 0.12 THEN round((4 * dice * CASE WHEN leap THEN 9 ELSE 1 END)::numeric, 3)
  ELSE 0 END, id, 300, 200, exp(6.2 + 0.5 * random_normal() + CASE WHEN leap THEN 0.4 ELSE 0 END)::bigint
FROM (
  SELECT calls.*, gen_random_uuid() AS id, random() AS dice,
    size = 1 AND at >= date_trunc('hour', now()) - interval '1 hour' AND at < date_trunc('hour', now()) AS leap,
    (ARRAY['openai:gpt-4o-mini', 'openai:gpt-4o', 'anthropic:claude-sonnet-4', 'stub:model'])[1 + n % 4] AS model,
    (ARRAY['route', 'explanation', 'investigation', 'budget_optimization'])[1 + n / 4 % 4] AS task_type,
    CASE WHEN n % 101 < 92 THEN 'success' WHEN n % 101 < 97 THEN 'blocked' ELSE 'failed' END AS status
  FROM (
    SELECT minute + random() * interval '30 s' AS at, tenant, size, (random() * 1e9)::int AS n
    FROM generate_series(date_trunc('hour', now()) - interval '29 days', now() - interval '1 min', '30 s') AS minute,
      unnest($1::uuid[]) WITH ORDINALITY AS tenants (tenant, size)
    WHERE random() < 0.9 / size * (0.35 + 0.65 * greatest(0, sin(pi() * (extract(hour FROM minute) - 6) / 14)))
      * CASE WHEN extract(isodow FROM minute) > 5 THEN 0.4 ELSE 1 END
  ) AS calls
) AS made
"""
_COSTS = """
INSERT INTO llm_monthly_costs
SELECT tenant_id, user_id, span_start::date, sum(cost), sum(calls), jsonb_object_agg(model, of_model), now() FROM (
  SELECT tenant_id, user_id, span_start, provider || ':' || model AS model, sum(cost_cents) AS cost,
    sum(attempted + cached) AS calls,
    jsonb_build_object('calls', sum(attempted + cached), 'cost_cents', sum(cost_cents)) AS of_model
  FROM call_sums_of_users WHERE span = 'month' GROUP BY 1, 2, 3, 4
) AS models GROUP BY 1, 2, 3
"""


async def write_past(url: str) -> None:
    """Calls of four weeks, up to a minute ago, and what they cost by month."""
    connection: Any = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    await connection.execute(_PAST, TENANTS, timeout=600)
    await connection.execute(_COSTS)
    await connection.close()


def run_calls(stack: Stack, seconds: float) -> None:
    """Calls of several users; some end badly: one user reaches a limit, another's provider fails, an entry is bad."""
    users = [UUID(int=random.Random(90 + n).getrandbits(128), version=4) for n in range(5)]
    keys = [stack.key(str(TENANTS[n % 2]), str(user)) for n, user in enumerate(users)]
    for n, (user, dollars) in enumerate(zip(users, (0.3, 0.5, 3, 5, 8), strict=True)):
        scope = ("--tenant", str(TENANTS[n % 2]), "--user", str(user))
        stack.cli("limits", "set", *scope, "--hourly-cents", str(100 * dollars), "--monthly-cents", str(1000 * dollars))
    tenant = ("--tenant", str(TENANTS[0]))
    stack.cli("limits", "set", *tenant, "--task-type", "investigation", "--calls", "60", "--per", "hour")
    stack.cli("limits", "set", *tenant, "--model", "openai:gpt-4o", "--cents", "2500", "--per", "day", "--shadow")
    stack.cli(
        "bounds", "set", *tenant, "--task-type", "investigation", "--max-cost-cents", "30", "--max-tool-calls", "10"
    )
    stack.cli("downgrade", "set", *tenant, "--model", "openai:gpt-4o", "--to", "openai:gpt-4o-mini", "--percent", "80")
    stack.redis().xadd("skeldir:inbox", {"data": "not json"})
    ends_at, dice = time.monotonic() + seconds, random.Random(1)

    def call(n: int) -> None:
        who = dice.randrange(len(keys))
        prompt = {"text": f"{n}", "simulated_cost_cents": round(dice.uniform(0.02, 2), 3)}
        prompt["simulated_delay_ms"] = int(dice.lognormvariate(6.1, 0.5))
        if who == 4 and n % 3:
            prompt["raise_error"] = "overloaded"
        with suppress(AssertionError):
            stack.run(
                ("route", "explanation", "investigation", "budget_optimization")[n % 4], key=keys[who], prompt=prompt
            )

    with ThreadPoolExecutor(6) as pool:
        n = 0
        while time.monotonic() < ends_at:
            pool.submit(call, n)
            n += 1
            time.sleep(0.4)


def log_in(page: Page, stack: Stack) -> None:
    """As an operator."""
    page.goto(f"{stack.ready['ledger_url']}/console")
    page.get_by_label("API key").fill(stack.ready["operator_key"])
    page.keyboard.press("Enter")
    expect(page.locator(".live")).to_have_text("Live")


def shoot(page: Page, stack: Stack, out: Path) -> None:
    """Every picture."""
    home = f"{stack.ready['ledger_url']}/console#"

    def picture(name: str, **how: Any) -> None:
        expect(page.locator("[aria-busy=true]")).to_have_count(0)
        page.mouse.move(0, 0)
        page.wait_for_timeout(400)  # a canvas has no event for having been drawn
        page.screenshot(path=out / f"{name}.png", **how)

    log_in(page, stack)
    page.get_by_role("button", name="24 h").click()
    page.set_viewport_size({"width": 1180, "height": 1060})
    picture("console-overview")
    page.set_viewport_size({"width": 1180, "height": 760})
    page.goto(f"{home}/requests?status=blocked&age=900")
    page.locator("tbody a").first.click()
    expect(page.locator(".why")).to_be_visible()
    picture("console-request")
    page.goto(f"{home}/costs?tenant_id={TENANTS[0]}")
    picture("console-costs", full_page=True)
    page.goto(f"{home}/limits?tenant_id={TENANTS[0]}")
    picture("console-limits", full_page=True)
    page.goto(f"{home}/")
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Stop calls").click()
    page.get_by_label("Reason").fill("runaway loop in the nightly job")
    page.keyboard.press("Enter")
    expect(page.locator(".reach")).to_be_visible()
    picture("console-stop")
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 390, "height": 844})
    picture("console-phone")


def main() -> None:
    """Run the calls, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=75.0, help="how long calls run before")
    parser.add_argument("--out", type=Path, default=IMAGES)
    asked = parser.parse_args()
    path = chromium_path()
    if path is None:
        sys.exit("there is no Chromium here (Debian: apt-get install chromium)")
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Stack(Path(folder)) as stack:
        asyncio.run(write_past(stack.ready["admin_database_url"]))
        run_calls(stack, asked.seconds)
        with sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
            page = chromium.new_page(viewport={"width": 1180, "height": 760}, color_scheme="light")
            shoot(page, stack, asked.out)
            chromium.close()
    for file in sorted(asked.out.glob("console-*.png")):
        print(f"{file.name}: {file.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()

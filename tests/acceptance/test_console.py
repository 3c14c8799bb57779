"""The console in a real Chromium, over a running system, as an operator uses it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browsers import FLAGS, chromium_path
from tests.stack import Stack, eventually, in_a_thread


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium of the system's."""
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    expect.set_options(timeout=20_000)  # of a machine that does other things, too
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def console(browser: Browser, stack: Stack) -> Iterator[Page]:
    """An operator, logged in. Afterwards: no error was said on the browser's console, no policy was broken."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    said: list[str] = []
    home: str = stack.ready["ledger_url"]
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(home) else None)
    page.add_init_script(
        "addEventListener('securitypolicyviolation', (event) => console.error('policy', event.violatedDirective))"
    )
    page.goto(f"{home}/console")
    page.get_by_label("API key").fill(stack.ready["operator_key"])
    page.keyboard.press("Enter")
    expect(page.locator(".live")).to_have_text("Live")
    yield page
    context.close()
    assert said == []


def test_the_overview_shows_the_books(console: Page, stack: Stack) -> None:
    stack.call(stack.run(prompt={"text": str(uuid4()), "simulated_cost_cents": 1.5}))
    operator = stack.ready["operator_key"]

    def shown() -> bool:
        minutes = json.loads(stack.get("/v1/overview", key=operator, base="ledger_url").text)["minutes"]
        calls = sum(row[end] for row in minutes for end in ("success", "blocked", "failed", "pending"))
        cents = sum(row["cost_cents"] for row in minutes)
        numbers = console.locator(".number .value").all_inner_texts()
        if len(numbers) < 2:
            return False  # it is drawn soon
        spent = float(re.sub(r"[$,]", "", numbers[0])) * 100
        return bool(int(numbers[1].replace(",", "")) == calls > 0 and abs(spent - cents) <= max(0.5, 0.06 * cents))

    eventually(shown, "the page shows what the read API says")
    expect(console.locator(".uplot canvas")).to_have_count(3)
    assert "answered" in (console.locator("#calls .plot").get_attribute("aria-label") or "")


def test_a_kill_switch_by_keyboard_alone_stops_calls(console: Page, stack: Stack) -> None:
    for _ in range(20):
        console.keyboard.press("Tab")
        if console.evaluate("document.activeElement.id") == "stop":
            break
    console.keyboard.press("Enter")
    expect(console.get_by_label("Reason")).to_be_focused()
    console.keyboard.type("a test of the console")
    console.keyboard.press("Enter")
    expect(console.locator(".reach")).to_contain_text("under way")
    assert stack.run()["status"] == "success", "nothing is stopped before it is confirmed"
    expect(console.get_by_role("button", name="Stop everything now")).to_be_focused()
    try:
        console.keyboard.press("Enter")
        expect(console.get_by_role("status").filter(has_text="The kill switch is on")).to_be_visible()
        in_a_thread(stack.until_heard)
        result = stack.run()
        assert (result["status"], result["blocked_reason"]) == ("blocked", "provider_kill_switch")
        finding = console.locator(".findings li.bad").filter(has_text="Kill switch on: everything")
        expect(finding).to_contain_text("a test of the console")
        finding.get_by_role("button").press("Enter")
        console.keyboard.type("the test is over")
        console.keyboard.press("Enter")
        expect(finding).to_have_count(0)
        in_a_thread(stack.until_heard)
        assert stack.run()["status"] == "success"
    finally:
        stack.cli("kill-switch", "release", "--reason", "the test is over")

    stack.call(result)
    console.goto(f"{stack.ready['ledger_url']}/console#/requests?q={result['request_id']}")
    console.get_by_role("link", name=result["request_id"][:8]).click()
    expect(console.locator(".why")).to_contain_text("A kill switch was engaged by")
    expect(console.locator(".timeline li")).to_have_count(2)
    console.goto(f"{stack.ready['ledger_url']}/console#/orders?type=kill_switch.engaged")
    expect(console.locator("tbody tr").first).to_contain_text("a test of the console")


def test_an_unusual_hour_is_marked_in_words(console: Page, stack: Stack) -> None:
    """As the read API says it; that it says so is tested there."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    odd = {"hour": hour.isoformat(), "what": "spend", "value": 5210, "usual": 800, "score": 9.1, "days": 20}
    console.route("**/v1/anomalies*", lambda route: route.fulfill(json={"anomalies": [odd], "next": None}))
    seen = json.loads(stack.get("/v1/overview", key=stack.ready["operator_key"], base="ledger_url").text)
    body = f"event: overview\ndata: {json.dumps({**seen, 'unusual': [odd]})}\n\n"
    console.route("**/console/live", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    console.reload()
    finding = console.locator(".findings li").filter(has_text="Spend: far more than usual")
    expect(finding).to_contain_text("$52.10 from")
    expect(finding).to_contain_text("usually about $8.00")
    console.get_by_role("button", name="24 h").click()
    expect(console.locator("#cost .marks")).to_contain_text("$52.10 from")
    assert "unusual: $52.10" in (console.locator("#cost .plot").get_attribute("aria-label") or "")


def test_a_quota_set_in_the_console_blocks_until_it_is_removed(console: Page, stack: Stack) -> None:
    tenant, user = stack.ready["tenant_id"], stack.ready["user_id"]
    console.goto(f"{stack.ready['ledger_url']}/console#/limits?tenant_id={tenant}")
    console.get_by_role("button", name="Add a quota").click()
    dialog = console.get_by_role("dialog")
    dialog.get_by_label("User id").fill(user)
    dialog.get_by_label("Model").fill("stub:small")
    dialog.get_by_label("At most").fill("0")
    dialog.get_by_label("Per").select_option("day")
    dialog.get_by_label("Reason").fill("a test of the console")
    console.keyboard.press("Enter")
    row = console.locator("#quotas tbody tr").filter(has_text="model stub:small")
    try:
        expect(row).to_contain_text("0 calls a day")
        expect(row).to_contain_text("a test of the console")
        small = {"text": str(uuid4()), "model": "stub:small"}
        in_a_thread(stack.until_heard)
        assert stack.run(prompt=small)["blocked_reason"] == "quota_exceeded"
        row.get_by_role("button", name="Change").click()
        dialog.get_by_label("At most").fill("10")
        dialog.get_by_label("Reason").fill("a test goes on")
        console.keyboard.press("Enter")
        expect(row).to_contain_text("10 calls a day")
        expect(row).to_contain_text("nothing yet")
        in_a_thread(stack.until_heard)
        stack.call(stack.run(prompt=small))
        operator = stack.ready["operator_key"]
        listed = stack.get(f"/v1/quotas?tenant_id={tenant}", key=operator, base="ledger_url").json()["quotas"]
        (quota,) = [one for one in listed if one["model"] == "small"]
        assert (quota["spent"], quota["reserved"], quota["used_pct"]) == (1, 0, 10)
        console.reload()
        expect(row).to_contain_text("1, resets")
        expect(row.get_by_role("img", name="10 percent used")).to_be_visible()
        row.get_by_role("button", name="Change").click()
        dialog.get_by_label("At most").fill("1")
        dialog.get_by_label("Reason").fill("a test reaches it")
        console.keyboard.press("Enter")
        expect(row).to_contain_text("1 call a day")
        console.get_by_role("link", name="Overview", exact=True).click()
        finding = console.locator(".findings li").filter(has_text="is reached: user")
        expect(finding).to_contain_text("1 of 1 call a day")
        expect(console.locator("#spend")).to_contain_text("model stub:small")
        console.get_by_role("link", name="All limits and quotas").click()
        row.get_by_role("button", name="Remove").click()
        dialog.get_by_label("Reason").fill("the test is over")
        console.keyboard.press("Enter")
        expect(row).to_have_count(0)
    finally:
        named = ("--tenant", tenant, "--user", user, "--model", "stub:small")
        stack.cli("limits", "unset", *named, "--limit", "calls", "--per", "day")


def test_a_request_says_once_what_was_wrong_with_it(console: Page, stack: Stack) -> None:
    home = f"{stack.ready['ledger_url']}/console#"
    task = stack.run(prompt={"text": str(uuid4()), "model": "opnai:gpt-4o"})
    stack.call(task)
    console.goto(f"{home}/requests/{task['task_id']}")
    expect(console.locator(".why .lead")).to_contain_text("No provider 'opnai': known are anthropic, ")
    expect(console.locator(".why dl")).to_have_count(0)
    expect(console.locator("p.sub")).to_contain_text(re.compile(r"\d\d:\d\d:\d\d [A-Z]{3,4}"))
    console.goto(f"{home}/requests/nope")
    expect(console.get_by_role("alert")).to_contain_text("task's id")
    expect(console.locator("nav [aria-current]")).to_have_text("Requests")


def test_from_a_request_to_what_else_its_user_and_its_tenant_did(console: Page, stack: Stack) -> None:
    tenant, user, other = stack.ready["tenant_id"], stack.ready["user_id"], str(uuid4())
    their_key = in_a_thread(lambda: stack.key(tenant, other))
    mine, theirs = stack.run(), stack.run(key=their_key)
    stack.call(mine)
    stack.call(theirs, user=other)
    console.goto(f"{stack.ready['ledger_url']}/console#/requests/{theirs['task_id']}")
    console.get_by_role("link", name=other).click()
    expect(console.get_by_label("User", exact=True)).to_have_value(other)
    expect(console.locator("tbody tr")).to_have_count(1)
    console.goto(f"{stack.ready['ledger_url']}/console#/requests?q={mine['request_id']}")
    console.locator("tbody").get_by_role("link", name=user[:8]).click()
    expect(console.get_by_label("User", exact=True)).to_have_value(user)
    console.goto(f"{stack.ready['ledger_url']}/console#/requests/{mine['task_id']}")
    console.get_by_role("link", name=tenant).click()
    expect(console.locator("h1")).to_contain_text(f"of tenant {tenant[:8]}")


def test_the_costs_are_the_statements(console: Page, stack: Stack) -> None:
    stack.call(stack.run(prompt={"text": str(uuid4()), "simulated_cost_cents": 2}))
    operator, month = stack.ready["operator_key"], f"{datetime.now(UTC):%Y-%m}"
    console.goto(f"{stack.ready['ledger_url']}/console#/costs")
    line = console.locator("#by-tenant").get_by_role("link", name=stack.ready["tenant_id"][:8])
    line.click()
    expect(console.locator("h1")).to_contain_text(f"of tenant {stack.ready['tenant_id'][:8]}")
    for part in ("user", "model", "task_type"):
        expect(console.locator(f"#by-{part} li").first).to_be_visible()
    path = console.get_by_role("link", name="Statement to print").get_attribute("href")
    assert path is not None and f"month={month}" in path
    told = stack.get(path.replace("format=html", "format=json"), key=operator, base="ledger_url").json()
    page = console.context.new_page()
    page.goto(f"{stack.ready['ledger_url']}{path}")
    expect(page.locator("body")).to_contain_text(f"{told['cost_cents']} cents, to the last unit")
    page.close()


PAGES = ("/", "/requests", "/costs", "/limits")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(scheme: Any, console: Page, stack: Stack) -> None:
    """By axe-core's rules: names, roles, contrast; and nothing stands over the edge of a small phone."""
    console.emulate_media(color_scheme=scheme)

    def check(what: str) -> None:
        found = Axe().run(console)
        assert found.violations_count == 0, f"{what}: {found.generate_report()}"

    for path in PAGES:
        console.goto(f"{stack.ready['ledger_url']}/console#{path}")
        expect(console.locator("nav a[aria-current=page]")).to_have_attribute("href", f"#{path}")
        expect(console.locator("[aria-busy=true]")).to_have_count(0)
        check(path)
        console.set_viewport_size({"width": 360, "height": 740})
        # Charts follow a frame later.
        eventually(lambda: console.evaluate("document.documentElement.scrollWidth") <= 360, f"{path} is narrow enough")
        console.set_viewport_size({"width": 1280, "height": 900})
    console.get_by_role("button", name="Add a quota").click()
    check("the form of a quota")
    console.keyboard.press("Escape")
    console.get_by_role("link", name="orders").click()
    expect(console.locator("tbody tr").first).to_be_visible()
    check("/orders")


def test_an_auditor_looks_at_one_tenant_and_changes_nothing(browser: Browser, stack: Stack) -> None:
    page = browser.new_page()
    page.goto(f"{stack.ready['ledger_url']}/console")
    page.get_by_label("API key").fill(in_a_thread(lambda: stack.key(stack.ready["tenant_id"], role="auditor")))
    page.keyboard.press("Enter")
    expect(page.locator(".live")).to_have_text("Live")
    for path in ("/costs", "/limits"):
        page.goto(f"{stack.ready['ledger_url']}/console#{path}")
        expect(page.locator("h1")).to_contain_text(f"of tenant {stack.ready['tenant_id'][:8]}")
        expect(page.locator("[aria-busy=true]")).to_have_count(0)
        for verb in ("Stop", "Set", "Add", "Change", "Remove"):
            expect(page.get_by_role("button", name=verb)).to_have_count(0)
    page.close()


def test_light_and_dark_and_small(console: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = console.evaluate(ground)
    console.emulate_media(color_scheme="dark")
    assert console.evaluate(ground) != light, "as the system wants it"
    console.get_by_role("button", name="Light or dark").click()
    assert console.evaluate(ground) == light, "as the person wants it"
    console.reload()
    assert console.evaluate(ground) == light, "and it is remembered"
    console.set_viewport_size({"width": 360, "height": 740})
    expect(console.locator(".uplot").first).to_be_visible()
    # Charts follow a frame later.
    eventually(lambda: console.evaluate("document.documentElement.scrollWidth") <= 360, "it is within a phone's edges")
    button = console.locator("#stop").bounding_box()
    assert button is not None and button["y"] < 740 and button["height"] >= 44, "and the stop is under the thumb"

"""The console in a real Chromium, over a running system, as an operator uses it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.stack import Stack, eventually

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# As root in a container there is no sandbox; and nothing is asked of the network.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium of the system's."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
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
        spent = float(re.sub(r"[$,]", "", numbers[0])) * 100
        return bool(int(numbers[1].replace(",", "")) == calls > 0 and abs(spent - cents) <= max(0.5, 0.06 * cents))

    eventually(shown, "the page shows what the read API says")
    expect(console.locator(".uplot canvas")).to_have_count(2)
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
        result = stack.run()
        assert (result["status"], result["blocked_reason"]) == ("blocked", "provider_kill_switch")
        finding = console.locator(".findings li.bad").filter(has_text="Kill switch on: everything")
        expect(finding).to_contain_text("a test of the console")
        finding.get_by_role("button").press("Enter")
        console.keyboard.type("the test is over")
        console.keyboard.press("Enter")
        expect(finding).to_have_count(0)
        assert stack.run()["status"] == "success"
    finally:
        stack.cli("kill-switch", "release", "--reason", "the test is over")

    stack.call(result)
    console.goto(f"{stack.ready['ledger_url']}/console#/requests?q={result['request_id']}")
    console.get_by_role("link", name=result["request_id"][:8]).click()
    expect(console.locator(".why")).to_contain_text("A kill switch was engaged by")
    expect(console.locator(".timeline li")).to_have_count(2)


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
    assert console.evaluate("document.documentElement.scrollWidth") <= 360, "nothing stands over the edge of a phone"
    button = console.locator("#stop").bounding_box()
    assert button is not None and button["y"] < 740 and button["height"] >= 44, "and the stop is under the thumb"

"""The page for people, in a real browser: over the whole stack, and over a gateway that is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.builders.gateway import write_bundle
from tests.builders.ports import free_port
from tests.builders.world import World

ROOT = Path(__file__).parents[2]
WAIT_S = 30
HTML_NAME = "<img src=x onerror=alert(1)> & <b>bold</b>"
UNKNOWN_USER = 9_000_000_000_000_000_001  # beyond what a JavaScript number holds


class Page:
    """What a person sees and does."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser, self.url = browser, url

    def open(self, query: str = "") -> None:
        """Opens the page and waits for its first answer or refusal."""
        self.browser.get(f"{self.url}/{query}")
        self.until(self.is_done)

    def is_done(self) -> bool:
        """Whether an answer or a problem is shown."""
        is_busy = "Asking" in self.text("#status")
        return not is_busy and (self.is_shown("#answer") or self.is_shown("#problem"))

    def until(self, condition: Callable[[], Any]) -> None:
        """Waits for something to become true."""
        WebDriverWait(self.browser, WAIT_S).until(lambda _: condition())

    def one(self, selector: str) -> WebElement:
        """The element."""
        element: WebElement = self.browser.find_element(By.CSS_SELECTOR, selector)
        return element

    def all(self, selector: str) -> list[WebElement]:
        """The elements."""
        elements: list[WebElement] = self.browser.find_elements(By.CSS_SELECTOR, selector)
        return elements

    def text(self, selector: str) -> str:
        """The text that can be read there."""
        return self.one(selector).text

    def is_shown(self, selector: str) -> bool:
        """Whether it can be seen."""
        return self.one(selector).is_displayed()

    def ask(self, user_id: int) -> None:
        """Types a user id and presses Enter."""
        field = self.one("#user")
        field.clear()
        field.send_keys(str(user_id), Keys.ENTER)
        self.until(lambda: self.is_done() and (f"user {user_id} " in self.text("#status")))

    def problems(self) -> list[str]:
        """What the browser complained about: a script's error, or something the policy forbids."""
        logged = self.browser.get_log("browser")
        return [line["message"] for line in logged if "Failed to load resource" not in line["message"]]


def get(url: str) -> Any:
    """Reads a JSON answer."""
    with urllib.request.urlopen(url, timeout=WAIT_S) as response:
        return json.load(response)


def test_a_known_user_sees_what_they_saw_and_each_stage_of_the_answer(browser: Any, gateway_url: str) -> None:
    page = Page(browser, gateway_url)
    bundle = get(f"{gateway_url}/v1/bundle")
    user_id = bundle["sample_user_ids"][0]
    page.open(f"?user={user_id}&n=5")
    assert f"5 items for user {user_id}" in page.text("#status")
    assert "ensemble" in page.text("#status")
    assert len(page.all("#served li")) == 5
    assert "In the order of the" in page.text("#served")
    assert len(page.all("#retrieved li")) > 5
    if bundle["is_ranked"]:
        assert len(page.all("#ranked li")) > 5
    else:
        assert "The ranker is not run" in page.text("#ranked")
    assert page.text("#removed h2") == "Removed"
    seen = get(f"{gateway_url}/v1/users/{user_id}/seen")
    assert len(page.all("#seen li")) == len(seen["items"]) > 0
    stages = page.text("#times")
    for stage in ("Look up user", "Encode user", "Retrieve", "Filter", "Look up items", "Score", "Order"):
        assert stage in stages
    assert len(page.all("#times .bar")) >= 8
    assert page.problems() == []


def test_a_slate_that_was_drawn_by_chance_is_said_to_be(browser: Any, own_world: World) -> None:
    own_world.up("redis", "triton", "gateway", EXPLORATION_TEMPERATURE="1")
    page = Page(browser, own_world.url)
    page.open("?user=7&n=5")
    assert "ensemble" in page.text("#status")
    assert "Drawn by chance, the likelier the higher the score." in page.text("#served")
    assert page.problems() == []


def test_the_items_like_one_of_the_slate_are_one_click_away(browser: Any, gateway_url: str) -> None:
    page = Page(browser, gateway_url)
    user_id = get(f"{gateway_url}/v1/bundle")["sample_user_ids"][0]
    page.open(f"?user={user_id}&n=4")
    name = page.all("#served li .name")[1].text
    page.one(f"#served button[aria-label='Items like {name}']").click()
    page.until(lambda: len(page.all("#alike li")) == 4)
    assert page.text("#alike h2") == f"Like {name}"
    assert name not in [one.text for one in page.all("#alike li .name")]
    assert page.problems() == []


def test_a_click_changes_the_next_slate_of_the_user_who_was_shown_it(browser: Any, gateway_url: str) -> None:
    page = Page(browser, gateway_url)
    user_id = UNKNOWN_USER - 1
    page.open(f"?user={user_id}&n=4")
    name = page.all("#served li .name")[0].text
    page.one("#user").clear()
    page.one("#user").send_keys("7")
    page.one(f"#served button[aria-label='Click on {name}']").click()
    page.until(lambda: page.text("#status").startswith(f"Clicked on {name}: this is the next slate."))
    assert f"4 items for user {user_id}" in page.text("#status")
    assert name not in [one.text for one in page.all("#served li .name")]
    assert [one.text for one in page.all("#seen li")] == [name]
    assert page.problems() == []


def test_an_unknown_user_is_answered_and_the_page_says_what_that_means(
    browser: Any, gateway_url: str
) -> None:
    page = Page(browser, gateway_url)
    page.open()
    page.ask(UNKNOWN_USER)
    assert "not known to the models" in page.text("#notes")
    assert page.all("#served li")
    assert page.text("#seen-count") == "nothing so far"
    assert page.problems() == []


def test_a_sample_user_is_one_click_and_has_an_address_of_its_own(browser: Any, gateway_url: str) -> None:
    page = Page(browser, gateway_url)
    page.open()
    button = page.all("#samples button")[-1]
    user_id = button.get_attribute("value")
    button.click()
    page.until(lambda: page.is_done() and f"user {user_id} " in page.text("#status"))
    assert button.get_attribute("aria-pressed") == "true"
    assert f"user={user_id}" in browser.current_url


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?user=me", "user id must be a whole number"),
        ("?user=1&n=101", "n must be less than or equal to 100"),
    ],
)
def test_a_wrong_entry_is_told_where_it_is_made(
    browser: Any, gateway_url: str, query: str, message: str
) -> None:
    page = Page(browser, gateway_url)
    page.open(query)
    assert message in page.text("#problem")
    assert not page.is_shown("#answer")


def test_every_field_has_a_label_and_a_narrow_screen_needs_no_sideways_scrolling(
    browser: Any, gateway_url: str
) -> None:
    page = Page(browser, gateway_url)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    try:
        page.open()
        for field in page.all("input"):
            assert browser.execute_script("return arguments[0].labels.length", field) == 1
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_api_documentation_shows_every_route(browser: Any, gateway_url: str) -> None:
    page = Page(browser, gateway_url)
    browser.get(f"{gateway_url}/docs")
    paths = get(f"{gateway_url}/openapi.json")["paths"]
    routes = {f"{method.upper()}{path}" for path, operations in paths.items() for method in operations}
    page.until(lambda: len(page.all("main section")) == len(routes))
    assert {one.text for one in page.all("main h2")} == routes
    assert page.problems() == []


@pytest.fixture
def lonely_url(tmp_path: Path) -> Iterator[str]:
    """A gateway whose Triton and Redis are down; its first item's name tries to be HTML."""
    folder = write_bundle(tmp_path / "bundle", first_title=HTML_NAME)
    port = free_port()
    settings = {
        "BUNDLE_DIR": folder,
        "PORT": port,
        "TRITON__ADDRESS": "127.0.0.1:1",
        "REDIS_URL": "redis://127.0.0.1:1",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHORTLIST_")}
    variables = {f"SHORTLIST_{name}": str(value) for name, value in settings.items()}
    python = ROOT / ".venv" / "gateway" / "bin" / "python"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [python, "-m", "service.main"], cwd=ROOT, env=inherited | variables, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(200):
                try:
                    get(f"{url}/healthz")
                    break
                except OSError:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def test_without_triton_and_redis_the_page_says_plainly_that_the_items_are_popular_ones(
    browser: Any, lonely_url: str
) -> None:
    page = Page(browser, lonely_url)
    page.open("?user=7&n=4")
    assert "popular items, not chosen for this user" in page.text("#notes")
    assert "ensemble cannot be reached" in page.text("#notes")
    assert "seen, or are gone, may be among these: Redis did not answer" in page.text("#notes")
    assert "redis does not answer" in page.text("#seen-count")
    assert [row.text for row in page.all("#served .name")] == [HTML_NAME, "Item 1", "Item 2", "Item 3"]
    assert page.problems() == []

"""The page before a gateway that asks for an API key, in a real browser."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from deploy.local.programs import http_fault
from deploy.local.settings import ROOT, python_of
from service.api_keys import digest_of, make_key
from tests.builders.gateway import write_bundle
from tests.builders.ports import free_port
from tests.builders.world import eventually
from tests.integration.test_page import Page

KEY = make_key()


@pytest.fixture
def locked_url(tmp_path: Path) -> Iterator[str]:
    """A gateway on its own, which answers whoever knows the key from its popular list."""
    port = free_port()
    settings = {
        "BUNDLE_DIR": write_bundle(tmp_path / "bundle"),
        "PORT": port,
        "TRITON__ADDRESS": "127.0.0.1:1",
        "REDIS_URL": "redis://127.0.0.1:1",
        "API_KEYS": f"page:{digest_of(KEY.encode())}",
    }
    variables = {f"SHORTLIST_{name}": str(value) for name, value in settings.items()}
    command = [str(python_of("gateway")), "-m", "service.main"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            assert eventually(lambda: not http_fault(f"{url}/healthz")), (tmp_path / "log").read_text()
            yield url
        finally:
            process.terminate()
            process.wait(30)
    assert KEY not in (tmp_path / "log").read_text()


def test_the_page_asks_for_the_key_and_keeps_it_in_its_tab_alone(browser: Any, locked_url: str) -> None:
    page = Page(browser, locked_url)
    page.open("?user=7&n=4")
    assert "asks for an API key" in page.text("#problem")
    assert page.is_shown("#enter")
    assert not page.is_shown("#ask")
    page.one("#key").send_keys("shortlist_wrong", Keys.ENTER)
    page.until(lambda: "does not know this key" in page.text("#problem"))
    page.one("#key").send_keys(KEY, Keys.ENTER)
    page.until(lambda: page.is_shown("#answer"))
    assert len(page.all("#served li")) == 4
    assert not page.is_shown("#enter")
    page.open("?user=8&n=3")  # the same tab, loaded again
    assert len(page.all("#served li")) == 3
    stored = browser.execute_script("return [localStorage.length, document.cookie, location.href]")
    assert stored[:2] == [0, ""]
    assert KEY not in stored[2]
    assert page.problems() == []
    browser.execute_script("sessionStorage.clear()")

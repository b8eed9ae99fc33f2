"""One world per run, made by the demo itself and served by a real Redis, Triton and gateway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from selenium import webdriver
from tritonclient.grpc import InferenceServerClient

from tests.builders.world import World


@dataclass(frozen=True)
class Demo:
    """A world that the demo has walked through, and what it printed."""

    world: World
    output: str


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Runs the whole demo once on a tiny synthetic world; its servers are down again."""
    world = World.make(tmp_path_factory.mktemp("world") / "var")
    done = world.run("dev", "-m", "deploy.local.demo")
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    yield Demo(world, done.stdout)
    world.down()


@pytest.fixture(scope="session")
def stack(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world's servers, up for the whole run; a test that harms them takes `harmed` or `own_stack`."""
    world = demo.world.copy(tmp_path_factory.mktemp("stack") / "var")
    try:
        world.up()
        yield world
    finally:
        world.down()


@pytest.fixture(scope="session")
def harmed(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Servers that tests harm, one after the other; each leaves them well."""
    world = demo.world.copy(tmp_path_factory.mktemp("harmed") / "var")
    try:
        world.up()
        yield world
    finally:
        world.down()


@pytest.fixture
def own_world(demo: Demo, tmp_path: Path) -> Iterator[World]:
    """A copy of the world for one test, with nothing running; whatever the test starts is stopped."""
    world = demo.world.copy(tmp_path / "var")
    try:
        yield world
    finally:
        world.down()


@pytest.fixture
def own_stack(own_world: World) -> World:
    """A copy of the world for one test, with its own servers up."""
    own_world.up()
    return own_world


@pytest.fixture(scope="session")
def gateway_url(stack: World) -> str:
    """Where the gateway answers."""
    return stack.url


@pytest.fixture(scope="session")
def redis_client(stack: World) -> Iterator[redis.Redis]:
    """A client of the Redis that serves."""
    with stack.redis() as client:
        yield client


@pytest.fixture(scope="session")
def triton_client(stack: World) -> Iterator[InferenceServerClient]:
    """A client of the Triton that serves."""
    client = InferenceServerClient(f"127.0.0.1:{stack.ports['TRITON_GRPC_PORT']}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, without a window, that talks to no one but the page."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--window-size=1280,1600", f"--user-data-dir={profile}"),
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.set_page_load_timeout(30)
    try:
        yield driver
    finally:
        driver.quit()

"""The password of Redis is where docs/operations.md says and nowhere else, also while it is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import redis

from contract.environment import AUTHENTICATION_FAILED
from tests.builders.world import World

ROUTES = ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/bundle")
WAIT_S = 60.0


def pages(world: World) -> dict[str, str]:
    """What the gateway and Triton show to whoever asks."""
    urls = [f"{world.url}{route}" for route in ROUTES]
    triton = f"http://127.0.0.1:{world.ports['TRITON_HTTP_PORT']}/v2/models/{world.manifest()['bundle']}"
    urls += [triton, f"{triton}/config", f"http://127.0.0.1:{world.ports['TRITON_METRICS_PORT']}/metrics"]
    return {url: httpx.get(url, timeout=30.0, trust_env=False).text for url in urls}


def command_lines() -> dict[str, str]:
    """The command line of every process of this machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[entry.name] = (entry / "cmdline").read_text(errors="replace")
            except OSError:
                continue
    return found


def holders(world: World, password: str) -> list[str]:
    """The files, command lines and pages that have the password."""
    files = {str(path.relative_to(world.var)): path for path in world.var.rglob("*") if path.is_file()}
    found = [name for name, path in files.items() if password.encode() in path.read_bytes()]
    shown = command_lines() | pages(world)
    assert len(shown) > 10
    return sorted(found) + [name for name, text in shown.items() if password in text]


@contextmanager
def refused(world: World) -> Iterator[None]:
    """Redis knows another password than the servers, and lets nobody in who was in before."""
    with world.redis() as client:
        client.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
        client.client_kill_filter(_type="normal", skipme=True)
        try:
            yield
        finally:
            client.execute_command(
                "ACL", "SETUSER", "default", "resetpass", f">{world.settings.redis.password}"
            )


def until(is_so: Callable[[], bool], what: str) -> None:
    """Waits for what must come."""
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end, f"{what}: not within {WAIT_S:.0f} s"
        time.sleep(0.1)


def readiness(world: World) -> httpx.Response:
    return httpx.get(f"{world.url}/readyz", timeout=30.0, trust_env=False)


def test_the_password_of_redis_stands_in_its_own_file_alone_and_a_refusal_says_what_it_is(
    harmed: World,
) -> None:
    password = harmed.settings.redis.password
    user = harmed.manifest()["sample_user_ids"][0]
    until(lambda: readiness(harmed).status_code == 200, "ready")
    assert harmed.recommend(user)["source"] == "ensemble"
    assert holders(harmed, password) == ["redis_password"]
    before = harmed.pids()
    with refused(harmed):
        until(lambda: AUTHENTICATION_FAILED in readiness(harmed).text, "readiness says what is wrong")
        response = readiness(harmed)
        assert response.status_code == 503
        answer = harmed.recommend(user)
        assert answer["source"] == "popular"
        assert "ensemble_unavailable" in answer["degraded"]
        status = harmed.stack("status").stdout
        materialized = harmed.run("training", "-m", "feature_repo", "materialize")
        time.sleep(2.0)  # long enough for the watch to look again: it has no cause to replace anything
        for text in (response.text, status, materialized.stderr):
            assert AUTHENTICATION_FAILED in text
            assert "start it" not in text
        assert materialized.returncode == 1
        assert password not in status + materialized.stdout + materialized.stderr
        assert holders(harmed, password) == ["redis_password"]
    until(lambda: readiness(harmed).status_code == 200, "ready again")
    assert harmed.pids() == before
    with harmed.redis() as client:
        assert client.ping()
    try:
        redis.Redis(**harmed.settings.redis.connection_kwargs() | {"password": "another"}).ping()
    except redis.AuthenticationError:
        return
    raise AssertionError("the password of before is the only one again")

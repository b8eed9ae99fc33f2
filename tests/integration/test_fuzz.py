"""The API as schemathesis finds it, over the whole stack: the short form of `make fuzz`."""

from __future__ import annotations

from pathlib import Path

from bench.fuzz.fuzz import SETTINGS, fuzz
from deploy.local.programs import http_fault
from tests.builders.world import World, eventually

SECONDS = 60


def test_whatever_is_asked_is_answered_as_the_api_is_described(own_world: World, tmp_path: Path) -> None:
    own_world.up(**SETTINGS)
    assert eventually(lambda: not http_fault(f"{own_world.url}/readyz"))
    found = fuzz(own_world.url, tmp_path, SECONDS, key="", seed=0)
    assert not found.wrong, (tmp_path / "schemathesis.log").read_text()[-6000:]
    answered = {operation.rpartition(" ")[0] for operation in found.statuses if operation.endswith(" 200")}
    assert answered >= {"POST /v1/recommendations", "GET /v1/users/{user_id}/seen", "GET /readyz"}
    failed = {one for one in found.statuses if one.rpartition(" ")[2].startswith("5")}
    assert failed <= {"GET /readyz 503", "GET /v1/users/{user_id}/seen 503"}  # documented: Redis was late

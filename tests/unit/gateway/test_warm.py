"""Ready means warm: the ensemble has answered real requests through this process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.api_keys import ApiKey, digest_of
from service.failures import DependencyUnavailable
from tests.builders.gateway import FakeEnsemble, client_of, make_app

pytestmark = pytest.mark.anyio


async def test_it_is_not_ready_before_the_ensemble_has_answered_and_then_stays_ready(tmp_path: Path) -> None:
    ensemble = FakeEnsemble(DependencyUnavailable("triton", "connection refused"))
    keys = (ApiKey("someone", digest_of(b"key")),)  # the warm-up needs none
    app = make_app(tmp_path, ensemble, warm_up_requests=20, api_keys=keys)
    async with client_of(app) as client:
        before = await client.get("/readyz")
        ensemble.fail = None
        for _ in range(200):
            after = await client.get("/readyz")
            if after.status_code == 200:
                break
            await asyncio.sleep(0.05)
        text = (await client.get("/metrics")).text
    assert before.status_code == 503
    assert before.json()["dependencies"]["warm_up"]["is_ready"] is False
    assert "0 of 20" in before.json()["dependencies"]["warm_up"]["detail"]
    assert after.status_code == 200
    assert "20 of 20" in after.json()["dependencies"]["warm_up"]["detail"]
    warmed_by = {request.user_id for request in ensemble.requests}
    assert warmed_by == {7, 8, 9}  # the bundle's sample
    assert "shortlist_requests_total{" not in text  # nobody asked these: they are not counted


async def test_requests_are_answered_while_it_is_not_warm_yet(tmp_path: Path) -> None:
    ensemble = FakeEnsemble(DependencyUnavailable("triton", "connection refused"))
    async with client_of(make_app(tmp_path, ensemble, warm_up_requests=20)) as client:
        answer = await client.post("/v1/recommendations", json={"user_id": 7})
        health = await client.get("/healthz")
    assert answer.json()["source"] == "popular"
    assert health.status_code == 200

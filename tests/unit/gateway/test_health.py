"""Health, readiness, metrics, and the small routes that the page uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contract.errors import ErrorCode, StageError
from service.failures import DependencyUnavailable
from tests.builders.gateway import BUNDLE, BrokenStore, FakeEnsemble, client_of, make_app

pytestmark = pytest.mark.anyio

DOWN = DependencyUnavailable("triton", "connection refused")


async def test_ready_when_every_dependency_is(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path)) as client:
        response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["is_ready"] is True
    assert set(response.json()["dependencies"]) == {"triton", "redis", "bundle", "warm_up"}


@pytest.mark.parametrize(
    ("fail", "is_redis_down", "not_ready"),
    [
        (DOWN, False, {"triton"}),
        (None, True, {"redis"}),
        (StageError(ErrorCode.CONTRACT, "score_candidates", "no ranker"), True, {"triton", "redis"}),
    ],
)
async def test_not_ready_names_the_dependency_while_answers_go_on(
    tmp_path: Path, fail: Exception | None, is_redis_down: bool, not_ready: set[str]
) -> None:
    app = make_app(tmp_path, FakeEnsemble(fail), BrokenStore() if is_redis_down else None)
    async with client_of(app) as client:
        response = await client.get("/readyz")
        health = await client.get("/healthz")
    dependencies = response.json()["dependencies"]
    assert response.status_code == 503
    assert {name for name, found in dependencies.items() if not found["is_ready"]} == not_ready
    assert all(found["detail"] for found in dependencies.values())
    assert health.status_code == 200


async def test_a_bug_in_a_check_is_not_ready_rather_than_an_error(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path, FakeEnsemble(RuntimeError("bug")))) as client:
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["dependencies"]["triton"]["is_ready"] is False


async def test_metrics_count_answers_by_source_and_status_and_stages_by_name(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    app = make_app(tmp_path, ensemble)
    async with client_of(app) as client:
        for body in ({"user_id": 7}, {"user_id": 7}, {"user_id": "7"}):
            await client.post("/v1/recommendations", json=body)
        ensemble.fail = DOWN
        await client.post("/v1/recommendations", json={"user_id": 7})
        text = (await client.get("/metrics")).text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    count = "shortlist_requests_total"
    assert samples[count, ("source", "ensemble"), ("status", "200")] == 2
    assert samples[count, ("source", "popular"), ("status", "200")] == 1
    assert samples[count, ("source", "none"), ("status", "422")] == 1
    assert samples["shortlist_stage_seconds_count", ("stage", "score_candidates")] == 2
    assert samples["shortlist_stage_seconds_sum", ("stage", "score_candidates")] == pytest.approx(0.0022)
    assert samples["shortlist_stage_seconds_count", ("stage", "popular")] == 1
    assert samples["shortlist_degraded_total", ("reason", "ensemble_unavailable")] == 1
    assert samples[("shortlist_in_flight",)] == 0
    assert samples["shortlist_request_seconds_count", ("route", "/v1/recommendations")] == 4
    served = ("arm", "champion"), ("bundle", BUNDLE), ("dataset", "synthetic")
    assert samples["shortlist_bundle_info", *served] == 1


async def test_unknown_paths_do_not_become_metric_labels(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path)) as client:
        await client.get("/wp-admin.php")
        text = (await client.get("/metrics")).text
    assert "wp-admin" not in text
    assert 'route="other"' in text


async def test_seen_items_come_newest_first_with_their_names(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path)) as client:
        answer = (await client.get("/v1/users/7/seen", params={"limit": 2})).json()
        nobody = (await client.get("/v1/users/99/seen")).json()
    assert answer["total"] == 3
    assert [(item["item_id"], item["item_title"]) for item in answer["items"]] == [
        (3, "Item 3"),
        (1, "Item 1"),
    ]
    assert (nobody["total"], nobody["items"]) == (0, [])


async def test_seen_items_without_redis_are_a_503_that_names_it(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path, store=BrokenStore())) as client:
        response = await client.get("/v1/users/7/seen")
    assert response.status_code == 503
    assert response.json()["dependency"] == "redis"


async def test_the_bundle_tells_what_a_request_may_name_and_no_checksums(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path)) as client:
        bundle = (await client.get("/v1/bundle")).json()
    assert bundle["bundle"] == BUNDLE
    assert bundle["context"] == ["context_hour", "context_tab"]
    assert bundle["sample_user_ids"] == [7, 8, 9]
    assert "checksums" not in bundle
    assert bundle["sources"] == [{"name": "nearest", "kind": "nearest", "share": 1.0}]
    assert bundle["is_ranked"] is True


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_run_nothing_but_their_own_scripts_and_fetch_nothing_from_elsewhere(
    tmp_path: Path, path: str
) -> None:
    async with client_of(make_app(tmp_path)) as client:
        response = await client.get(path)
    policy = response.headers["content-security-policy"]
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "style-src 'sha256-" in policy
    assert "unsafe" not in policy
    for outside in ("http://", "https://", "//cdn", "innerHTML", " src=", "@import"):
        assert outside not in response.text, outside

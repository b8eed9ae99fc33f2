"""The ladder: each step in turn, and the answer says why the ones before did not make it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from contract.errors import ErrorCode, StageError
from contract.slates import Degradation, SlateSource
from contract.tensors import bundle_id
from service.failures import DependencyUnavailable, EnsembleBusy, NotStored
from service.limits.circuits import TOGETHER_S
from service.limits.deadline import Deadline
from service.metrics import Metrics
from service.schemas import RecommendRequest
from service.slate import Slate
from service.slates.ladder import Ladder, Outcome, SlateRequest, SlateStep
from tests.builders.gateway import BUNDLE, BrokenStore, FakeEnsemble, ask, client_of, make_app

pytestmark = pytest.mark.anyio

DOWN = DependencyUnavailable("triton", "connection refused")


class Fixed:
    """A step that makes a slate, or fails."""

    def __init__(self, name: str, error: Exception | None = None, degraded: list[str] | None = None) -> None:
        self.name, self.error, self.degraded, self.asked = name, error, degraded or [], 0

    async def slate(self, asked: SlateRequest) -> Slate:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return Slate(SlateSource.BATCH, [asked.request.user_id], [1.0], self.degraded)


def asked() -> SlateRequest:
    return SlateRequest(RecommendRequest(user_id=7), {}, "id", Deadline.after(5))


def metrics() -> Metrics:
    return Metrics("bundle", "dataset")


def counts(text: str, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels, reverse=True)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


async def test_the_first_step_that_can_answers_and_the_others_are_not_asked() -> None:
    first, second = Fixed("ensemble"), Fixed("popular")
    slate = await Ladder([first, second], metrics()).slate(asked())
    assert slate.degraded == []
    assert (first.asked, second.asked) == (1, 0)
    assert isinstance(first, SlateStep)


async def test_the_reasons_stand_first_in_the_order_of_the_steps_and_each_outcome_is_counted() -> None:
    counted = metrics()
    late = DependencyUnavailable("redis", "no answer in time", is_late=True)
    steps = [
        Fixed("ensemble", EnsembleBusy(3)),
        Fixed("batch", late),
        Fixed("stored", DOWN),
        Fixed("popular", None, ["seen"]),
    ]
    one = asked()
    slate = await Ladder(steps, counted).slate(one)
    assert slate.degraded == ["ensemble_busy", "batch_late", "stored_unavailable", "seen"]
    assert set(one.timings_ms) == {"ensemble", "batch", "stored", "popular"}
    assert one.log_fields["fallback"] == str(DOWN)
    found = counts(counted.text().decode(), "shortlist_steps_total")
    assert found == {
        ("ensemble", "busy"): 1,
        ("batch", "late"): 1,
        ("stored", "unavailable"): 1,
        ("popular", "answered"): 1,
    }


async def test_an_untold_outcome_is_counted_and_leaves_no_reason() -> None:
    counted, one = metrics(), asked()
    steps = [Fixed("ensemble", DOWN), Fixed("batch", NotStored("nothing")), Fixed("popular")]
    slate = await Ladder(steps, counted, silent=[Outcome.MISSING]).slate(one)
    assert slate.degraded == ["ensemble_unavailable"]
    assert one.log_fields["fallback"] == str(DOWN)
    assert counts(counted.text().decode(), "shortlist_steps_total")["batch", "missing"] == 1
    answered = await Ladder(steps[1:], metrics()).slate(asked())
    assert answered.degraded == ["batch_missing"]


async def test_a_wrong_request_is_not_hidden_by_a_later_step() -> None:
    last = Fixed("popular")
    wrong = StageError(ErrorCode.BAD_REQUEST, "filter_candidates", "no such column")
    with pytest.raises(StageError):
        await Ladder([Fixed("ensemble", wrong), last], metrics()).slate(asked())
    assert last.asked == 0


async def test_without_any_slate_the_last_failure_is_told() -> None:
    with pytest.raises(DependencyUnavailable, match="connection refused"):
        await Ladder([Fixed("popular", DOWN)], metrics()).slate(asked())
    with pytest.raises(DependencyUnavailable):
        await Ladder([], metrics()).slate(asked())


async def ask_often(app: FastAPI, times: int) -> tuple[list[dict[str, Any]], str]:
    answers = []
    async with client_of(app) as client:
        for _ in range(times):
            answers.append((await client.post("/v1/recommendations", json={"user_id": 9, "n": 2})).json())
            await asyncio.sleep(2 * TOGETHER_S)
        return answers, (await client.get("/metrics")).text


async def test_an_ensemble_that_keeps_failing_is_not_asked_for_a_moment_and_that_is_a_metric(
    tmp_path: Path,
) -> None:
    ensemble = FakeEnsemble(DOWN)
    answers, text = await ask_often(make_app(tmp_path, ensemble), 20)
    assert all(answer["degraded"] == ["ensemble_unavailable"] for answer in answers)
    assert len(ensemble.requests) < 12  # five failures, then a try every half second at most
    assert counts(text, "shortlist_circuit_open")["triton",] > 0
    assert counts(text, "shortlist_steps_total")["ensemble", "unavailable"] == 20
    assert counts(text, "shortlist_steps_total")["popular", "answered"] == 20


async def test_what_the_ensemble_is_asked_for_is_a_metric(tmp_path: Path) -> None:
    _, text = await ask_often(make_app(tmp_path), 3)
    assert counts(text, "shortlist_quality") == {(): 1.0}
    assert counts(text, "shortlist_in_flight") == {(): 0.0}
    assert counts(text, "shortlist_in_flight_limit")[()] >= 4
    assert counts(text, "shortlist_circuit_open")["triton",] == 0


async def test_a_row_that_was_late_on_the_way_is_answered_from_the_next_step(tmp_path: Path) -> None:
    class Late(FakeEnsemble):
        async def recommend(self, *rest: Any) -> Any:
            await super().recommend(*rest)
            return Slate(SlateSource.ENSEMBLE, [], [], [Degradation.LATE], bundle_id=bundle_id(BUNDLE))

    answer = (await ask(make_app(tmp_path, Late()), user_id=9, n=3)).json()
    assert answer["source"] == "popular"
    assert answer["degraded"] == ["ensemble_late"]
    assert len(answer["items"]) == 3


async def test_a_slate_of_another_bundle_is_not_shown_but_marked_counted_and_logged_now_and_then(
    tmp_path: Path,
) -> None:
    ensemble = FakeEnsemble()
    ensemble.bundle = "newer-2"
    with structlog.testing.capture_logs() as logged:
        answers, text = await ask_often(make_app(tmp_path, ensemble), 20)
    assert {(answer["source"], answer["bundle"]) for answer in answers} == {("popular", BUNDLE)}
    assert all(answer["degraded"] == ["ensemble_other_bundle"] for answer in answers)
    assert counts(text, "shortlist_steps_total")["ensemble", "other_bundle"] == 20
    assert counts(text, "shortlist_degraded_total") == {("ensemble_other_bundle",): 20}
    assert counts(text, "shortlist_circuit_open")["triton",] == 0, "it does answer"
    lines = [line for line in logged if line["event"] == "other_bundle"]
    assert [(line["log_level"], line["bundle"]) for line in lines] == [("warning", BUNDLE)]


async def test_slow_answers_lower_the_quality_that_is_asked_for(tmp_path: Path) -> None:
    ensemble = FakeEnsemble(wait_s=0.045)
    settings = {"latency_budget_ms": 60, "reserve_ms": 10, "triton": {"max_in_flight": 4}}
    app = make_app(tmp_path, ensemble, BrokenStore(), **settings)
    async with client_of(app) as client:
        for _ in range(20):
            posts = [client.post("/v1/recommendations", json={"user_id": 9, "n": 1}) for _ in range(3)]
            await asyncio.gather(*posts)
    assert ensemble.qualities[0] == 1.0
    assert min(ensemble.qualities) < 1.0

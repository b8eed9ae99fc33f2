"""However often readiness is asked for, the servers are checked once a second."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from service.failures import DependencyUnavailable
from service.http.operations import KEPT_S, DependencyChecks
from tests.builders.gateway import BrokenStore, FakeEnsemble, client_of, make_app, variant_of

pytestmark = pytest.mark.anyio


class Clock:
    """Stands still until it is moved."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_prober_that_never_pauses_makes_one_slate(tmp_path: Path) -> None:
    ensemble = FakeEnsemble()
    app = make_app(tmp_path, ensemble)
    async with client_of(app) as client:
        while len(ensemble.requests) < 1:  # the check at the start
            await asyncio.sleep(0.005)
        app.state.checks._clock = Clock()
        ensemble.requests.clear()
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(50)))
        answers += [await client.get("/readyz") for _ in range(50)]
    assert {answer.status_code for answer in answers} == {200}
    assert len(ensemble.requests) == 1


async def test_those_who_come_while_a_check_is_made_wait_for_its_result() -> None:
    ensemble = FakeEnsemble(wait_s=0.05)
    checks = DependencyChecks(partial(variant_of, ensemble=ensemble), 10)
    results = await asyncio.gather(*(checks.results() for _ in range(20)))
    assert [result["triton"].is_ready for result in results] == [True] * 20
    assert len(ensemble.requests) == 1


async def test_a_result_is_told_again_for_a_second_from_its_end_and_then_made_anew() -> None:
    clock, ensemble, store = Clock(), FakeEnsemble(), BrokenStore()
    checks = DependencyChecks(partial(variant_of, store, ensemble), 10, clock)
    first = await checks.results()
    assert (first["triton"].is_ready, first["redis"].is_ready) == (True, False)
    ensemble.fail = DependencyUnavailable("triton", "connection refused")
    clock.now_s += 0.99 * KEPT_S
    assert await checks.results() == first
    clock.now_s += 0.01 * KEPT_S
    assert not (await checks.results())["triton"].is_ready
    assert (len(ensemble.requests), store.calls) == (2, 2)


async def test_one_who_leaves_does_not_end_the_check_for_the_others() -> None:
    checks = DependencyChecks(partial(variant_of, ensemble=FakeEnsemble(wait_s=0.05)), 10)
    leaving, staying = (asyncio.ensure_future(checks.results()) for _ in range(2))
    await asyncio.sleep(0.01)
    leaving.cancel()
    assert (await staying)["triton"].is_ready
    assert leaving.cancelled()

"""The gateway follows the routing record: who answers whom, what is refused, what is taken out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from contract.bundle import BundleError
from contract.errors import ErrorCode, StageError, WrongField
from contract.routing import CHAMPION, Routing
from contract.slates import Published
from service import held as module
from service.failures import DependencyUnavailable
from service.limits.adaptive import EnsembleLimits
from service.limits.arm_health import LEAST, STRIKES, WINDOW_S
from service.limits.circuits import RECOVERY_S
from service.limits.deadline import Clock
from service.limits.event_loop import EventLoopLimit
from service.metrics import Metrics
from service.routing import Router
from service.schemas import RecommendRequest
from service.slates import shadow as shadow_module
from service.store.store import Store
from service.variant import Variant
from tests.builders.gateway import (
    BUNDLE,
    RUN,
    BrokenStore,
    FakeEnsemble,
    ask,
    make_app,
    make_settings,
    make_store,
    make_stored,
    variant_of,
)
from tests.builders.memory_store import MemoryStore

pytestmark = pytest.mark.anyio

DOWN = DependencyUnavailable("triton", "connection refused")
USERS = range(60)


class Bundles:
    """What there is beside the link's bundle: variants over fakes, by name."""

    def __init__(self, names: Iterable[str]) -> None:
        self.ensembles = {name: FakeEnsemble() for name in names}
        self.store: Store = make_store()
        for name, ensemble in self.ensembles.items():
            ensemble.bundle = name

    def read(self, name: str) -> Variant:
        """Gives one of them."""
        if name not in self.ensembles:
            raise BundleError(f"{name}: not found")
        variant = variant_of(self.store, self.ensembles[name])
        manifest = variant.manifest.model_copy(update={"bundle": name})
        return replace(variant, manifest=manifest, limits=limits())


def limits() -> EnsembleLimits:
    """Those of one bundle: no other's failures count in them."""
    return EnsembleLimits("triton", 9.5, 64)


def make_router(
    store: MemoryStore,
    *names: str,
    ensemble: FakeEnsemble | None = None,
    clock: Clock = time.monotonic,
    **settings: Any,
) -> tuple[Router, Bundles]:
    bundles = Bundles(names)
    bundles.store = store
    given = make_settings(**settings)
    first = replace(variant_of(store, ensemble), limits=limits())
    metrics = Metrics(BUNDLE, "synthetic")
    return Router(given, first, EventLoopLimit(256), metrics, bundles.read, clock), bundles


async def settled(router: Router) -> None:
    """Looks, lets what is being prepared end, and looks again."""
    await router.look()
    while preparing := router._bundles._preparing:
        await asyncio.gather(*preparing.values())
        await asyncio.sleep(0)
    await router.look()


def write(store: MemoryStore, routing: Routing) -> None:
    store.record = routing.encode().encode()


async def answer_of(router: Router, user_id: int = 7, **body: Any) -> dict[str, Any]:
    answer = await router.answer(RecommendRequest(user_id=user_id, n=3, **body), f"request-{user_id}")
    found: dict[str, Any] = orjson.loads(answer.body)
    assert [note.arm for note in answer.shown] == [found["arm"]]
    return found


def metrics_of(router: Router) -> str:
    return router.metrics.text().decode()


async def test_a_promotion_and_a_rollback_are_followed_and_named() -> None:
    store = make_store()
    router, _ = make_router(store, "two")
    assert (await answer_of(router))["bundle"] == BUNDLE
    record = Routing(champion=BUNDLE).promoted("two", "better")
    write(store, record)
    await settled(router)
    answer = await answer_of(router)
    assert (answer["bundle"], answer["arm"], answer["source"]) == ("two", CHAMPION, "ensemble")
    assert 'shortlist_bundle_info{arm="champion",bundle="two"' in metrics_of(router)
    write(store, record.promoted(BUNDLE, "worse"))
    await router.look()
    assert (await answer_of(router))["bundle"] == BUNDLE, "what was served before is at hand at once"


async def test_what_serves_a_bundle_is_let_go_once_the_record_has_not_named_it_for_a_while() -> None:
    store, now_s = make_store(), 0.0
    router, _ = make_router(store, "two", clock=lambda: now_s)
    for routing, passed_s, held in (
        (Routing(champion="two"), 0.0, {BUNDLE, "two"}),
        (Routing(champion=BUNDLE, former="two"), 2 * module.KEPT_S, {BUNDLE, "two"}),
        (Routing(champion=BUNDLE), module.KEPT_S - 1, {BUNDLE, "two"}),
        (Routing(champion=BUNDLE), 2.0, {BUNDLE}),
        (Routing(champion="two"), 0.0, {BUNDLE, "two"}),
    ):
        write(store, routing)
        await settled(router)
        now_s += passed_s
        await router.look()
        assert set(router._bundles._held) == held
        assert (await answer_of(router))["bundle"] == routing.champion


async def test_users_of_a_split_stay_in_their_arm_and_one_may_look_at_both() -> None:
    store = make_store()
    router, bundles = make_router(store, "two")
    record = Routing(champion=BUNDLE).split("two", 0.4, "")
    write(store, record)
    await settled(router)
    found = {user: (await answer_of(router, user))["arm"] for user in USERS}
    assert found == {user: record.arm_of(user) for user in USERS}
    assert set(found.values()) == {CHAMPION, "two"}
    theirs = next(user for user, arm in found.items() if arm == "two")
    assert (await answer_of(router, theirs, arm=CHAMPION))["bundle"] == BUNDLE
    with pytest.raises(WrongField, match="use one of champion, two"):
        await answer_of(router, theirs, arm="three")
    bundles.ensembles["two"].fail = DOWN
    answer = await answer_of(router, theirs)
    assert (answer["source"], answer["bundle"], answer["arm"]) == ("popular", "two", "two")


async def test_an_arms_users_get_no_stored_slate_of_another_bundle() -> None:
    stored = [(user, make_stored([300, 301, 302], bundle=BUNDLE)) for user in USERS]
    store = make_store(published=Published((RUN,)), slates=stored)
    router, bundles = make_router(store, "two", ensemble=FakeEnsemble(fail=DOWN))
    record = Routing(champion=BUNDLE).split("two", 0.4, "")
    write(store, record)
    await settled(router)
    bundles.ensembles["two"].fail = DOWN
    sources = {(record.arm_of(user), (await answer_of(router, user))["source"]) for user in USERS}
    assert sources == {(CHAMPION, "batch"), ("two", "popular")}


@pytest.mark.parametrize("wrong", ["not there", "does not answer", "answers for another", "late"])
async def test_a_bundle_that_is_not_ready_is_refused_and_the_former_one_goes_on(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    router, bundles = make_router(store, "two", warm_up_requests=3)
    monkeypatch.setattr(module, "PREPARE_S", 0.3)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    good = bundles.ensembles.pop("two")
    bad = FakeEnsemble(fail=DOWN if wrong == "does not answer" else None, wait_s=9 * (wrong == "late"))
    bad.bundle = "three" if wrong == "answers for another" else "two"
    if wrong != "not there":
        bundles.ensembles["two"] = bad
    write(store, Routing(champion="two"))
    await settled(router)
    assert (await answer_of(router))["bundle"] == BUNDLE
    assert 'shortlist_bundles_refused_total{bundle="two"}' in metrics_of(router)
    assert store.reported is not None
    assert (store.reported.serves, set(store.reported.refuses)) == ((BUNDLE,), {"two"})
    bundles.ensembles["two"] = good
    await settled(router)
    await settled(router)
    assert (await answer_of(router))["bundle"] == "two", "it is tried again"
    assert (store.reported.serves, store.reported.refuses) == (("two",), {})


async def test_a_bundle_serves_over_the_connection_that_warmed_it_and_one_that_is_refused_keeps_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    closed: list[str] = []
    for name, noted in (("_open", opened), ("_close", closed)):

        async def note(variant: Variant, noted: list[str] = noted) -> None:
            noted.append(variant.name)

        monkeypatch.setattr(module, name, note)
    store = make_store()
    router, bundles = make_router(store, "two", "three")
    bundles.ensembles["three"].fail = DOWN
    write(store, Routing(champion="two").split("three", 0.4, ""))
    await settled(router)
    assert set(router._bundles._held) == {BUNDLE, "two"}
    assert (sorted(opened), closed) == (["three", "two"], ["three"])


async def test_an_arm_that_fails_is_taken_out_of_the_record_and_one_that_fails_with_the_champion_is_not() -> (
    None
):
    store, ensemble, now_s = make_store(), FakeEnsemble(), 0.0
    router, bundles = make_router(store, "two", ensemble=ensemble, clock=lambda: now_s)
    record = Routing(champion=BUNDLE).split("two", 0.5, "")
    write(store, record)
    await settled(router)

    async def ask_everyone(windows: int = STRIKES) -> None:
        nonlocal now_s
        for _ in range(windows):
            for user in range(2 * LEAST + 50):
                await answer_of(router, user)
            now_s += WINDOW_S
            await router.look()

    ensemble.fail = bundles.ensembles["two"].fail = DOWN
    await ask_everyone()
    assert store.record == record.encode().encode(), "what fails both is not the arm's fault"
    ensemble.fail = bundles.ensembles["two"].fail = None
    await asyncio.sleep(2 * RECOVERY_S)  # until the circuits try again
    await ask_everyone()
    assert store.record == record.encode().encode()
    bundles.ensembles["two"].fail = DOWN
    await ask_everyone(STRIKES - 1)
    bundles.ensembles["two"].fail = None
    await asyncio.sleep(2 * RECOVERY_S)
    await ask_everyone()
    assert store.record == record.encode().encode(), "a restart of Triton costs no split"
    assert 'shortlist_arms_ended_total{arm="two"} 0.0' in metrics_of(router), "or no alert sees it rise"
    bundles.ensembles["two"].fail = DOWN
    await ask_everyone()
    assert store.record is not None
    changed = Routing.decode(store.record)
    assert changed.arms == ()
    assert "two was taken out: " in changed.why
    assert {(await answer_of(router, user))["arm"] for user in USERS} == {CHAMPION}
    assert 'shortlist_arms_ended_total{arm="two"} 1.0' in metrics_of(router)


async def test_whatever_an_arm_raises_counts_against_it_and_what_a_caller_did_wrong_does_not() -> None:
    store, now_s = make_store(), 0.0
    router, bundles = make_router(store, "two", clock=lambda: now_s)
    record = Routing(champion=BUNDLE).split("two", 0.5, "")
    write(store, record)
    await settled(router)

    async def ask_everyone(error: type[Exception], **body: Any) -> None:
        nonlocal now_s
        for _ in range(STRIKES):
            for user in range(2 * LEAST + 50):
                if record.arm_of(user) == "two":
                    with pytest.raises(error):
                        await answer_of(router, user, **body)
                else:
                    await answer_of(router, user)
            now_s += WINDOW_S
            await router.look()

    await ask_everyone(WrongField, context={"no_such": 1})
    bundles.ensembles["two"].fail = StageError(ErrorCode.BAD_REQUEST, "request", "too long")
    await ask_everyone(StageError)
    assert store.record == record.encode().encode()
    bundles.ensembles["two"].fail = ZeroDivisionError("a bug")
    await ask_everyone(ZeroDivisionError)
    assert store.record is not None
    assert "two was taken out: " in Routing.decode(store.record).why


async def test_a_record_that_is_gone_leaves_the_links_bundle_and_a_redis_that_is_away_leaves_everything() -> (
    None
):
    store = make_store()
    router, _ = make_router(store, "two")
    write(store, Routing(champion="two"))
    await settled(router)
    router._store = BrokenStore()
    await router.look()
    assert (await answer_of(router))["bundle"] == "two"
    router._store = store
    store.record = b"no record"
    await router.look()
    assert (await answer_of(router))["bundle"] == "two"
    store.record = None
    await router.look()
    assert (await answer_of(router))["bundle"] == BUNDLE


async def test_a_start_takes_the_champion_of_the_record_though_triton_is_not_up_yet() -> None:
    store = make_store()
    router, bundles = make_router(store, "two")
    bundles.ensembles["two"].fail = DOWN
    write(store, Routing(champion="two"))
    await router.start()
    answer = await answer_of(router)
    assert (answer["bundle"], answer["source"]) == ("two", "popular")


async def test_a_shadow_is_compared_and_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "AFTER_S", 0.0)
    store = make_store()
    router, bundles = make_router(store, "two")
    write(store, Routing(champion=BUNDLE).shadowed("two", ""))
    await settled(router)
    asked = len(bundles.ensembles["two"].requests)
    assert (await answer_of(router))["bundle"] == BUNDLE
    await asyncio.sleep(0.05)
    assert len(bundles.ensembles["two"].requests) == asked + 1
    text = metrics_of(router)
    assert 'shortlist_shadow_total{outcome="compared"} 1.0' in text
    assert "shortlist_shadow_overlap_sum 1.0" in text
    assert 'shortlist_shadow_seconds_count{of="shadow"} 1.0' in text
    router.served.champion.variant.limits.in_flight.try_enter()
    assert router.served.shadow is not None
    router.served.shadow._not_before_s = 0.0
    await answer_of(router)
    await asyncio.sleep(0.05)
    assert 'shortlist_shadow_total{outcome="spared"} 1.0' in metrics_of(router), "others are being answered"
    assert len(bundles.ensembles["two"].requests) == asked + 1


async def test_a_shadow_is_spared_while_an_arm_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "AFTER_S", 0.0)
    store = make_store()
    router, bundles = make_router(store, "two", "three")
    write(store, Routing(champion=BUNDLE).shadowed("two", ""))
    await settled(router)
    record = Routing(champion=BUNDLE).shadowed("two", "").split("three", 0.4, "")
    write(store, record)
    await settled(router)
    asked = len(bundles.ensembles["two"].requests)
    router.served.arms["three"].variant.limits.in_flight.try_enter()
    await answer_of(router, next(user for user in USERS if record.arm_of(user) == CHAMPION))
    await asyncio.sleep(0.05)
    assert 'shortlist_shadow_total{outcome="spared"} 1.0' in metrics_of(router)
    assert len(bundles.ensembles["two"].requests) == asked


async def test_several_requests_are_answered_each_by_its_arm() -> None:
    store = make_store()
    router, _ = make_router(store, "two")
    record = Routing(champion=BUNDLE).split("two", 0.4, "")
    write(store, record)
    await settled(router)
    answer = await router.answers([RecommendRequest(user_id=user, n=1) for user in USERS], "many")
    assert [note.arm for note in answer.shown] == [record.arm_of(user) for user in USERS]


async def test_an_arm_that_there_is_not_is_told_by_its_field(tmp_path: Path) -> None:
    response = await ask(make_app(tmp_path), user_id=7, arm="none")
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "arm"

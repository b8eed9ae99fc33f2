"""Several bundles in one real Triton: loaded, refused, unloaded, kept, and watched."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from contract.keys import gateways_key, routing_key
from contract.routing import GatewayReport, Routing, RoutingError
from ensemble.publish.export import export
from ensemble.publish.serve import BundleServer
from ensemble.settings import EnsembleSettings
from ensemble.triton.keeper import BundleKeeper
from ensemble.triton.probe import Probe, Sign
from ensemble.triton.repository import LoadError
from ensemble.triton.watch import WatchedTriton, stubs_of
from tests.builders.site import Site
from tests.builders.triton import make_settings
from tests.builders.triton_server import RunningTriton, running_triton

OTHERS = ("second", "third", "broken")


@pytest.fixture
def settings(site: Site) -> EnsembleSettings:
    """Bundles `old`, which is current, `second` and `third`, exported and indexed; `broken` does not load."""
    settings = make_settings(redis_url=site.url, var_dir=site.var, unload_after_s=0.5, load_timeout_s=60)
    models = site.var / "models"
    export(site.old.folder, models, settings)
    for name in OTHERS:
        world = site.trained(site.old, name)
        export(world.folder, models, settings)
        site.promote(name)
        assert site.export("--keep", "9") == 0
    (models / "broken" / "1" / "bundle" / "ranker.onnx").write_bytes(b"not a model")
    site.promote("old")
    return settings


@pytest.fixture
def triton(settings: EnsembleSettings) -> Iterator[RunningTriton]:
    variables = {"SHORTLIST_REDIS_URL": settings.redis_url.get_secret_value(), "SHORTLIST_K": "10"}
    with running_triton(settings.var_dir, variables) as running:
        yield running


def server(site: Site, settings: EnsembleSettings, triton: RunningTriton, **changed: object) -> BundleServer:
    changes = {"triton_http": f"127.0.0.1:{triton.http_port}", **changed}
    return BundleServer(site.redis, settings.model_copy(update=changes))


@contextmanager
def reporting(site: Site, **facts: Any) -> Iterator[None]:
    """A gateway that says this of the record, again and again."""
    is_over = threading.Event()

    def report() -> None:
        for beat in itertools.count():
            said = GatewayReport(beat=beat, **facts)
            site.redis.hset(gateways_key("tiny"), "a-gateway", said.model_dump_json())
            if is_over.wait(0.1):
                return

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_bundles_come_and_go_while_one_answers(
    site: Site, settings: EnsembleSettings, triton: RunningTriton
) -> None:
    repository, probe = triton.repository, Probe("127.0.0.1", triton.http_port, 60.0)
    watched, keeper = (
        WatchedTriton("127.0.0.1", triton.http_port),
        BundleKeeper(triton.repository, site.redis, settings),
    )
    assert watched.look(triton.pid).sign is Sign.STARTING
    keeper.look()
    assert repository.ready() == ["old"], "where there is no record, the link says what is loaded"
    assert watched.look(triton.pid).sign is Sign.ANSWERS
    signs, is_over = [], threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            signs.append(probe.look_at("old").sign)

    asking = threading.Thread(target=ask)
    asking.start()
    serving = server(site, settings, triton)
    try:
        serving.split("second", 0.25, "try it")
        assert site.redis.get(routing_key("tiny"))
        assert set(repository.ready()) == {"old", "second"}
        assert watched.look(triton.pid).sign is Sign.ANSWERS
        serving.promote("third", "better")
        with pytest.raises(LoadError, match="broken: Triton does not load it"):
            serving.promote("broken", "worse")
        assert serving.routing().bundles == ("third", "second", "old"), "what was served goes on"
        serving.promote("old", "rolled back")
        serving.split("second", 0, "over")
        until = time.monotonic() + 60
        while "second" in repository.ready() and time.monotonic() < until:
            keeper.look()
            time.sleep(0.1)
        assert set(repository.ready()) == {"old", "third"}, "what left the record is unloaded after a grace"
        assert set(stubs_of(triton.pid).values()) == {"old", "third"}
        assert watched.look(triton.pid).sign is Sign.ANSWERS, "a process that ended with its model is no loss"
    finally:
        is_over.set()
        asking.join()
    assert set(signs) == {Sign.ANSWERS}
    victim = next(pid for pid, model in stubs_of(triton.pid).items() if model == "third")
    psutil.Process(victim).kill()
    assert watched.look(triton.pid).sign is Sign.BROKEN, "one whose model is called ready is"


def test_the_bound_lets_go_of_what_is_missed_least_and_then_refuses(
    site: Site, settings: EnsembleSettings, triton: RunningTriton
) -> None:
    serving = server(site, settings, triton, loaded_bundles=2)
    serving.promote("second", "")
    assert serving.routing().bundles == ("second", "old")
    with reporting(site, serves=("second",), refuses={"third": "not warm"}):
        with pytest.raises(LoadError, match="third: a gateway refuses it, what was served goes on: not warm"):
            serving.split("third", 0.5, "")
        assert serving.routing().arms == ()
    serving.split("third", 0.5, "")
    assert serving.routing().bundles == ("second", "third"), "the former champion goes first"
    assert set(triton.repository.ready()) == {"second", "third"}
    with pytest.raises(LoadError, match="raise SHORTLIST_LOADED_BUNDLES"):
        serving.shadow("old", "")


def test_what_callers_would_notice_is_refused(
    site: Site, settings: EnsembleSettings, triton: RunningTriton
) -> None:
    serving = server(site, settings, triton)
    folder = site.var / "bundles" / "second"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"context": ["context_other"]}))
    with pytest.raises(ValueError, match="its context differs from that of old"):
        serving.split("second", 0.5, "")
    shutil.rmtree(settings.var_dir / "models" / "third")
    with pytest.raises(ValueError, match="is not in the index, or not in"):
        serving.promote("third", "")
    with pytest.raises(ValueError, match=r"manifest\.json: not found"):
        serving.promote("nothing", "")
    with pytest.raises(RoutingError, match="must be at least 0 and below 1"):
        serving.split("second", 2.0, "")
    assert site.redis.get(routing_key("tiny")) is None
    assert triton.repository.ready() == []


def test_a_record_that_was_lost_leaves_what_the_link_says(site: Site, settings: EnsembleSettings) -> None:
    site.redis.set(routing_key("tiny"), Routing(champion="second", former="old").encode())
    serving = BundleServer(site.redis, settings)
    assert serving.routing().champion == "second"
    site.redis.delete(routing_key("tiny"))
    assert serving.routing() == Routing(champion="old")

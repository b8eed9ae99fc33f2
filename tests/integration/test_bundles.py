"""Bundles side by side on real servers: promoted, rolled back, divided and refused, while callers ask."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from types import MappingProxyType

import pytest
from selenium.webdriver import Chrome

from bench.chaos.judge import percentile
from bench.promotions import LEAST_FULL, SWITCHES, switch_under_load
from contract.bundle import sha256
from contract.routing import CHAMPION, Routing
from deploy.local.routing import ensemble_settings
from ensemble.publish.serve import BundleServer
from ensemble.stores.routing import read_routing
from shortlist import Client
from tests.builders.world import World, eventually
from tests.integration.test_page import Page

pytestmark = pytest.mark.timeout(900)
OTHER, BROKEN = "other-bundle", "broken-bundle"
STRANGER = 987_654_321_012


def renamed(
    bundle: Path, name: str, changed: Mapping[str, bytes] = MappingProxyType({}), **facts: object
) -> Path:
    """Copies a bundle under another name: the same models, another bundle, with other files, and other facts
    in its manifest, if asked."""
    other = bundle.resolve().with_name(name)
    shutil.copytree(bundle.resolve(), other)
    popular = json.loads((other / "popular.json").read_text()) | {"bundle": name}
    manifest = json.loads((other / "manifest.json").read_text()) | {"bundle": name, **facts}
    for file, content in {"popular.json": json.dumps(popular).encode(), **changed}.items():
        (other / file).write_bytes(content)
        manifest["checksums"][file] = sha256(other / file)
    (other / "manifest.json").write_text(json.dumps(manifest))
    return other


def bundles(world: World, *arguments: str) -> CompletedProcess[str]:
    """Gives one of the commands about bundles."""
    return world.run("dev", "-m", "deploy.local.bundles", *arguments)


def routing(world: World) -> Routing:
    """What is served, as the record says."""
    with closing(world.redis()) as client:
        return read_routing(client, world.settings.bundle).routing


def test_bundles_are_exchanged_under_load_and_every_answer_is_of_the_one_that_it_names(
    own_stack: World, record_property: Callable[[str, object], None]
) -> None:
    ours, users = own_stack.manifest()["bundle"], own_stack.manifest()["sample_user_ids"]
    before = own_stack.pids()
    renamed(own_stack.settings.bundle, OTHER)
    done = bundles(own_stack, "promote", "--bundle", OTHER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert own_stack.settings.bundle.resolve().name == OTHER
    assert eventually(lambda: own_stack.recommend(users[0])["bundle"] == OTHER, 10.0)
    done = bundles(own_stack, "rollback")
    assert done.returncode == 0, done.stdout + done.stderr
    assert own_stack.settings.bundle.resolve().name == ours
    assert eventually(lambda: own_stack.recommend(users[0])["bundle"] == ours, 10.0)
    with closing(own_stack.redis()) as client:
        server = BundleServer(client, ensemble_settings(own_stack.settings))
        made = switch_under_load(own_stack.settings, server, OTHER, users)
    assert len(made.switches) == SWITCHES
    wrong = [(one.status, one.body[:200]) for one in made.run.exchanges if one.status != 200]
    assert (wrong, made.misnamed) == ([], 0)
    assert made.full_share >= LEAST_FULL
    record_property("switch seen after s", max(made.seen_after_s))
    record_property("p99 ms", percentile(made.run.exchanges, 99.0))
    assert own_stack.pids() == before, "nothing was restarted"


def test_a_split_is_kept_by_user_survives_triton_and_is_ended(own_stack: World) -> None:
    ours, users = own_stack.manifest()["bundle"], list(range(1, 41))
    renamed(own_stack.settings.bundle, OTHER)
    done = bundles(own_stack, "split", "--bundle", OTHER, "--share", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    record = routing(own_stack)

    def arms() -> dict[int, tuple[str, str, str]]:
        found = {user: own_stack.recommend(user) for user in users}
        return {user: (one["arm"], one["bundle"], one["source"]) for user, one in found.items()}

    expected = {
        user: (arm, ours if arm == CHAMPION else OTHER, "ensemble")
        for user, arm in ((user, record.arm_of(user)) for user in users)
    }
    assert len({bundle for _, bundle, _ in expected.values()}) == 2
    assert eventually(lambda: arms() == expected, 20.0)
    os.kill(own_stack.pids()["triton"], signal.SIGKILL)
    assert eventually(lambda: arms() == expected, 120.0), "both are loaded again"
    done = bundles(own_stack, "shadow", "--bundle", OTHER)
    assert done.returncode == 1
    assert "answers users already" in done.stderr
    done = bundles(own_stack, "split", "--bundle", OTHER, "--share", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert eventually(lambda: {bundle for _, bundle, _ in arms().values()} == {ours}, 20.0)
    done = bundles(own_stack, "list")
    assert f"champion  {ours}  100% of the users" in done.stdout


def test_a_broken_bundle_is_refused_and_what_was_served_goes_on(own_stack: World) -> None:
    ours, before = own_stack.manifest()["bundle"], routing(own_stack)
    renamed(own_stack.settings.bundle, BROKEN, {"user_tower.onnx": b"no model"})
    for command in (["promote", "--bundle", BROKEN], ["split", "--bundle", BROKEN, "--share", "0.5"]):
        done = bundles(own_stack, *command)
        assert done.returncode != 0, done.stdout
        assert BROKEN in done.stderr
    assert own_stack.settings.bundle.resolve().name == ours
    assert routing(own_stack) == before
    assert own_stack.recommend(1)["bundle"] == ours


def test_a_bundle_of_another_data_set_is_refused_and_the_events_of_what_is_served_have_their_effect(
    own_stack: World,
) -> None:
    bundle, before = own_stack.settings.bundle, own_stack.pids()
    declared = (bundle / "dataset.yaml").read_text().replace("name: synthetic", "name: other", 1)
    assert "name: other" in declared
    renamed(bundle, OTHER, {"dataset.yaml": declared.encode()}, dataset="other")
    done = bundles(own_stack, "promote", "--bundle", OTHER)
    assert done.returncode == 1
    assert "is of the data set other, and the servers serve synthetic" in done.stderr
    assert f"`make down promote materialize export up BUNDLE={OTHER}`" in done.stderr
    assert bundle.resolve().name != OTHER
    item = own_stack.recommend(STRANGER)["items"][0]["item_id"]
    with Client(own_stack.url, timeout_s=20.0) as client:
        client.send_events([{"user_id": STRANGER, "item_id": item, "type": "click"}])
        assert eventually(lambda: client.user(STRANGER)["seen"] == [item], 10.0)
    assert own_stack.pids() == before


def test_a_bundle_that_was_promoted_while_nothing_ran_is_what_a_start_serves(own_stack: World) -> None:
    ours = own_stack.manifest()["bundle"]
    other = renamed(own_stack.settings.bundle, OTHER)
    done = bundles(own_stack, "promote", "--bundle", OTHER)
    assert done.returncode == 0, done.stdout + done.stderr
    own_stack.down()
    done = bundles(own_stack, "rollback")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "make materialize export up" in done.stdout
    own_stack.up()
    assert own_stack.recommend(1)["bundle"] == ours
    assert routing(own_stack).former == other.name


def test_the_page_shows_the_slates_of_a_split_side_by_side(own_stack: World, browser: Chrome) -> None:
    page = Page(browser, own_stack.url)
    page.open("?user=1&n=5")
    assert page.all("#arms .card") == []
    renamed(own_stack.settings.bundle, OTHER)
    done = bundles(own_stack, "split", "--bundle", OTHER, "--share", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    page.open("?user=1&n=5")
    assert len(page.all("#arms .card")) == 2
    assert "Champion" in page.text("#arms")
    assert OTHER in page.text("#arms")
    assert "5 of 5 items there too" in page.text("#arm-0"), "the same models"

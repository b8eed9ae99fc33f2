"""Models are trained anew while all servers run: begun by events, promoted past the gate, or refused by it;
what came live outlasts it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.keys import retrained_key
from deploy.local.settings import ROOT, python_of
from shortlist import Client
from tests.builders.world import World, eventually
from tests.integration.test_bundles import bundles, renamed, routing

pytestmark = pytest.mark.timeout(900)
CATEGORY, NEW = 4321, 900_555
"""A category that no other item has, and its item."""
EVENTS = 8
SOON_S, TRAINED_S = 20.0, 500.0
BETTER = "better-bundle"


@contextmanager
def retraining(world: World, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Runs what begins trainings, as a user starts it."""
    command = [str(python_of("dev")), "-m", "deploy.local.run", "batch", "-m", "batch", "retraining"]
    variables = world.environment | {f"SHORTLIST_{name}": value for name, value in settings.items()}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def retrain(world: World, reason: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Gives the command by hand."""
    return world.run("dev", "-m", "deploy.local.retrain", "--reason", reason, **settings)


def manifest(world: World, bundle: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((world.var / "bundles" / bundle / "manifest.json").read_text())
    return content


def served(world: World) -> tuple[str, str]:
    """The bundle of an answer, and that of the link."""
    return world.recommend(7)["bundle"], world.settings.bundle.resolve().name


def tried(world: World) -> dict[str, Any]:
    """What is kept of the training that was begun last; nothing before trainings are looked for."""
    with world.redis() as client:
        value: Any = client.get(retrained_key(world.manifest()["dataset"]))
        record: dict[str, Any] = json.loads(value or "{}")
        return record


def is_ended(world: World) -> bool:
    """Whether a training was begun, and has ended."""
    record = tried(world)
    return bool(record["reason"]) and record["status"] is not None


def of_the_category(world: World) -> list[int]:
    """The items of the category that the ensemble gives."""
    items = world.recommend(7, n=5, filters={"item_category": [CATEGORY]})["items"]
    return [one["item_id"] for one in items if one["source"] == "ensemble"]


def like_it_and_better(bundle: Path, name: str) -> None:
    """Copies a bundle under another name; its metrics say that no other comes near."""
    metrics = json.loads((bundle / "metrics.json").read_text())
    metrics["sections"]["end_to_end"][metrics["served"]]["ndcg@10"] = 0.999
    renamed(bundle, name, {"metrics.json": json.dumps(metrics).encode()})


def test_events_begin_a_training_whose_bundle_is_promoted_and_a_worse_one_changes_nothing(
    own_world: World,
) -> None:
    world = own_world
    world.up(LIVE_ARCHIVE_S="0.5")
    before, _ = served(world)
    items = [one["item_id"] for one in world.recommend(7, n=EVENTS)["items"]]
    row = {"item_id": NEW, "item_name": "Brand new", "item_category": CATEGORY}
    with Client(world.url, timeout_s=20.0) as client:
        client.put_items([row])
        assert eventually(lambda: of_the_category(world) == [NEW], SOON_S)

        # A training begins by itself; a second one, by hand, does nothing.
        due = {"RETRAIN_EVENTS": str(EVENTS), "RETRAIN_PAUSE_S": "0", "POLL_S": "1"}
        settings = {f"BATCH_{name}": value for name, value in due.items()}
        with retraining(world, **settings, PROMOTION_MARGIN="1") as at_work:
            assert eventually(lambda: bool(tried(world)), SOON_S)
            client.send_events([{"user_id": 7, "item_id": one, "type": "click"} for one in items])
            assert eventually(lambda: (world.var / "retrain.lock").exists(), SOON_S)
            second = retrain(world, "at the same time")
            assert (second.returncode, "did nothing" in second.stdout) == (75, True), second.stdout
            is_done = eventually(lambda: is_ended(world), TRAINED_S)
            at_work.send_signal(signal.SIGTERM)
            output = at_work.communicate(timeout=120)[0]
            assert is_done, output
        trained, current = served(world)
        assert trained == current != before, output
        assert "the training ended well" in output, output
        assert manifest(world, trained)["reason"] == f"{EVENTS} events since the last training"
        assert routing(world).former == before

        # What came live is there still, also after materialising.
        assert of_the_category(world) == [NEW]
        for arguments in (("training", "features"), ("feature_repo", "materialize")):
            assert world.run("training", "-m", *arguments).returncode == 0
        assert of_the_category(world) == [NEW]
        assert {*client.user(7)["seen"]} >= {*items}

    # One that the gate refuses changes nothing.
    like_it_and_better(world.settings.bundle, BETTER)
    done = bundles(world, "promote", "--bundle", BETTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert eventually(lambda: served(world) == (BETTER, BETTER), SOON_S)
    record = routing(world)
    refused = retrain(world, "again")
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "not promoted" in refused.stderr
    assert "what is served stays" in refused.stdout
    assert (served(world), routing(world)) == ((BETTER, BETTER), record)
    assert (tried(world)["reason"], tried(world)["status"]) == ("again", 1), "one by hand counts as well"

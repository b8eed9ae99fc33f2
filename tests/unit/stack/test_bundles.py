"""A bundle of another data set than is served: it waits until nothing runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from contract.bundle import BundleError
from contract.bundles import CURRENT, LATEST
from deploy.local import bundles, demo, stack
from deploy.local.settings import LocalSettings
from deploy.local.steps import Step, Steps
from tests.builders.gateway import write_bundle

Ran = list[tuple[Any, ...]]


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    """A run-time folder in which a bundle of `films` is current, and one of `books` was trained last."""
    for dataset, link in (("films", CURRENT), ("books", LATEST)):
        write_bundle(tmp_path / "bundles" / f"{dataset}-1", bundle=f"{dataset}-1", dataset=dataset)
        (tmp_path / "bundles" / link).symlink_to(f"{dataset}-1")
    write_bundle(tmp_path / "bundles" / "films-2", bundle="films-2", dataset="films")
    return LocalSettings(var_dir=tmp_path)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """What was run of the roles' commands."""
    ran: Ran = []
    monkeypatch.setattr(bundles, "run", lambda _, *given, **__: ran.append(given))
    return ran


def let_run(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(bundles, "running", lambda _: {*names})


@pytest.mark.parametrize(
    ("moved", "command"),
    [
        (["promote"], "make down promote materialize export up BUNDLE=books-1"),
        (["promote", "--force"], "make down promote materialize export up BUNDLE=books-1 FORCE=1"),
        (["rollback"], "make down rollback materialize export up"),
    ],
)
@pytest.mark.parametrize("names", [("redis", "triton", "gateway"), ("redis", "consumer")])
def test_it_is_refused_with_the_remedy_while_the_servers_run(
    settings: LocalSettings,
    monkeypatch: pytest.MonkeyPatch,
    ran: Ran,
    moved: Sequence[str],
    command: str,
    names: Sequence[str],
) -> None:
    let_run(monkeypatch, *names)
    with pytest.raises(BundleError) as raised:
        bundles.move(settings, "books-1", moved)
    assert "books-1: is of the data set books, and the servers serve films" in str(raised.value)
    assert f"`{command}`, with DATA=" in str(raised.value)
    assert ran == []


@pytest.mark.parametrize("names", [(), ("redis",)])
def test_where_nothing_serves_the_link_moves_and_what_is_next_is_told(
    settings: LocalSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ran: Ran,
    names: Sequence[str],
) -> None:
    let_run(monkeypatch, *names)
    bundles.move(settings, "books-1", ["promote"])
    assert ran == [("training", "-m", "training", "promote")]
    assert "next: make materialize export up" in capsys.readouterr().out


def test_a_bundle_of_what_is_served_is_served_at_once(
    settings: LocalSettings, monkeypatch: pytest.MonkeyPatch, ran: Ran
) -> None:
    let_run(monkeypatch, "redis", "triton", "gateway")
    monkeypatch.setattr(bundles, "prepare", lambda *_: None)
    bundles.move(settings, "films-2", ["promote", "--bundle", "films-2"])
    assert [given[2] for given in ran] == ["ensemble.publish.serve", "training"]


@pytest.mark.parametrize("dataset", ["books", "films"])
def test_the_demo_ends_the_servers_of_another_data_set_before_it_promotes(
    settings: LocalSettings, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    did: list[str] = []

    def step(_: Steps, one: Step) -> float:
        did.append(one.name)
        if one.name == "materialize":
            raise KeyboardInterrupt  # the rest is as it was
        return 0.0

    (settings.var / "bundles" / LATEST).unlink()
    (settings.var / "bundles" / LATEST).symlink_to(f"{dataset}-1")
    let_run(monkeypatch, "redis", "triton", "gateway")
    monkeypatch.setattr(Steps, "run", step)
    monkeypatch.setattr(stack, "up", lambda *_: None)
    monkeypatch.setattr(stack, "down", lambda _: did.append("down"))
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(Console(quiet=True), settings)
    ended = ["down"] if dataset == "books" else []
    assert did == ["prepare", "train", *ended, "promote", "features", "materialize"]

"""Retraining: one at a time, and whatever fails leaves what is served."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from batch.schedule.tried import TriedTrainings
from contract.events import PARTITIONS
from contract.keys import event_stream_key
from deploy.local import retrain
from deploy.local.bundles import CommandFailed
from deploy.local.settings import LocalSettings
from tests.builders.redis_server import redis_server


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "latest").symlink_to("new-1")
    return LocalSettings(var_dir=tmp_path)


def run_main(monkeypatch: pytest.MonkeyPatch, settings: LocalSettings, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["retrain", *arguments])
    monkeypatch.setattr(retrain, "load_settings", lambda: settings)
    return retrain.main()


@pytest.mark.parametrize("is_up", [False, True])
def test_it_trains_with_the_reason_and_promotes_what_passed(
    monkeypatch: pytest.MonkeyPatch, settings: LocalSettings, is_up: bool
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(retrain, "run", lambda _, *given, **__: ran.append(given[2:]))
    monkeypatch.setattr(retrain, "runs", lambda _: is_up)
    monkeypatch.setattr(retrain, "promote", lambda _, name, force: ran.append((name, force)))
    assert run_main(monkeypatch, settings, "--reason", "drift of scores") == 0
    features = [("training", "features"), ("feature_repo", "materialize")] if is_up else []
    trained = ("training", "retrain", "--reason", "drift of scores")
    checked = ("training", "promote", "--check", "--bundle", "new-1")
    assert ran == [trained, checked, *features, ("new-1", False)]


@pytest.mark.parametrize("step", ["run", "promote"])
def test_a_step_that_fails_ends_it_and_is_told(
    monkeypatch: pytest.MonkeyPatch, settings: LocalSettings, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise CommandFailed(3)

    promoted: list[str] = []
    monkeypatch.setattr(retrain, "run", lambda *_, **__: "")
    monkeypatch.setattr(retrain, "runs", lambda _: False)
    monkeypatch.setattr(retrain, "promote", lambda _, name, force: promoted.append(name))  # noqa: ARG005
    monkeypatch.setattr(retrain, step, fail)
    assert run_main(monkeypatch, settings) == 3
    assert promoted == []
    assert "what is served stays" in capsys.readouterr().out


@pytest.mark.parametrize("status", [0, 3])
def test_when_it_began_why_and_how_it_ended_stands_where_the_schedule_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    monkeypatch.setattr(retrain, "dataset_of", lambda _: "tiny")
    with redis_server(tmp_path) as url, Redis(**url.connection_kwargs()) as client:
        trainings = TriedTrainings(client, "tiny")
        for event in range(5):
            client.xadd(event_stream_key("tiny", event % PARTITIONS), {"event": b"x"})
        begun: list[Any] = []

        def train(*_: Any) -> None:
            begun.append(trainings.last())
            if status:
                raise CommandFailed(status)

        monkeypatch.setattr(retrain, "retrain", train)
        settings = LocalSettings(var_dir=tmp_path, redis_url=url)
        assert run_main(monkeypatch, settings, "--reason", "new season") == status
        ended = trainings.last()
    assert ended is not None
    assert (begun[0].events, begun[0].reason, begun[0].status) == (5, "new season", None)
    assert (ended.at_s, ended.events, ended.status) == (begun[0].at_s, 5, status)


def test_a_reason_may_hold_what_a_shell_would_read(tmp_path: Path) -> None:
    reason = 'it is the schedule\'s time; "now"'
    said = subprocess.run(
        ["make", "-s", "retrain", f"REASON={reason}", f"DEV={_teller(tmp_path)}", "PYTHON=true"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert said.stdout.splitlines()[-1] == reason, said.stderr


def _teller(folder: Path) -> Path:
    """Makes a program that says its last argument."""
    program = folder / "tell"
    program.write_text('#!/bin/sh\nfor last; do :; done; printf "%s\\n" "$last"\n')
    program.chmod(0o755)
    return program


def test_two_never_run_at_once_and_a_killed_one_leaves_no_lock(
    monkeypatch: pytest.MonkeyPatch, settings: LocalSettings
) -> None:
    hold = "import sys,pathlib;from batch.schedule.training_lock import alone\n"
    hold += "with alone(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    monkeypatch.setattr(retrain, "run", lambda *_, **__: "")
    monkeypatch.setattr(retrain, "runs", lambda _: False)
    monkeypatch.setattr(retrain, "promote", lambda *_, **__: None)
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(settings.var)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert run_main(monkeypatch, settings) == 75
        other.kill()
    assert run_main(monkeypatch, settings) == 0

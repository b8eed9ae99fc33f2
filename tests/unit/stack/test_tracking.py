"""What follows a training or a promotion: what was recorded is brought to MLflow, and never in their way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import bundles, tracking
from deploy.local.settings import ROOT, LocalSettings
from training.record import FACTS_FILE, FOLDER


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalSettings:
    monkeypatch.setenv("SHORTLIST_MLFLOW", "local")
    return LocalSettings(var_dir=tmp_path)


def role(monkeypatch: pytest.MonkeyPatch, file: Path, program: str | None) -> None:
    """Puts a program in the place of the role's Python, or none."""
    if program is not None:
        file.write_text(f"#!/bin/sh\n{program}\n")
        file.chmod(0o755)
    monkeypatch.setattr(tracking, "python_of", lambda _: file)


def test_the_role_brings_it_and_its_failure_fails_nothing(
    settings: LocalSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    role(monkeypatch, tmp_path / "python", 'echo "$@ $SHORTLIST_VAR_DIR"; echo away >&2; exit 1')
    tracking.bring(settings)
    said = capfd.readouterr()
    assert (said.out, said.err) == (f"-m training.tracking bring {tmp_path}\n", "away\n")


def test_where_the_role_is_not_built_a_line_says_how_to_see_what_was_recorded(
    settings: LocalSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    role(monkeypatch, tmp_path / "python", None)
    tracking.bring(settings)
    assert "`make mlflow`" in capfd.readouterr().out


@pytest.mark.parametrize(("value", "said"), [("off", ""), ("here", "SHORTLIST_MLFLOW: must be local, off")])
def test_off_asks_nobody_and_a_wrong_place_is_a_warning(
    settings: LocalSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    value: str,
    said: str,
) -> None:
    role(monkeypatch, tmp_path / "python", "echo asked")
    monkeypatch.setenv("SHORTLIST_MLFLOW", value)
    tracking.bring(settings)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.count("\n") == bool(said)


FAILED_BEFORE_IT_BEGAN = {
    "a file of settings that is not there": {"SETTINGS": "/nope"},
    "a quality that is none": {"QUALITY": "fulll"},
    "data that are not there": {"DATA": "/nope"},
}


@pytest.mark.parametrize("given", FAILED_BEFORE_IT_BEGAN.values(), ids=FAILED_BEFORE_IT_BEGAN.keys())
def test_what_failed_before_anything_was_recorded_is_not_told_as_recorded(
    given: dict[str, str], tmp_path: Path
) -> None:
    former = tmp_path / FOLDER / "former" / FACTS_FILE
    former.parent.mkdir(parents=True)
    former.write_text("{}")
    os.utime(former, (1_700_000_000, 1_700_000_000))
    made = ["make", "-s", "train", "PYTHON=true", *(f"{name}={value}" for name, value in given.items())]
    variables = os.environ | {"SHORTLIST_VAR_DIR": str(tmp_path), "SHORTLIST_MLFLOW": "local"}
    run = subprocess.run(made, cwd=ROOT, capture_output=True, text=True, env=variables)
    ((_, value),) = given.items()
    assert run.returncode == 2  # make's own
    assert value in run.stderr
    assert "tracking" not in run.stdout + run.stderr


def test_what_was_recorded_since_is_brought_however_it_ended(
    settings: LocalSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    role(monkeypatch, tmp_path / "python", "echo asked")
    facts = tmp_path / FOLDER / "one" / FACTS_FILE
    facts.parent.mkdir(parents=True)
    facts.write_text("{}")
    began = facts.stat().st_mtime
    tracking.bring(settings, began + 1)
    assert capfd.readouterr().out == ""
    tracking.bring(settings, began)
    assert capfd.readouterr().out == "asked\n"


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_bundle_that_moved_is_told_after_the_move(
    settings: LocalSettings, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    order: list[str] = []
    monkeypatch.setattr(bundles, "load_settings", lambda: settings)
    monkeypatch.setattr(bundles, command, lambda *_, **__: order.append(command))
    monkeypatch.setattr(bundles, "bring", lambda _: order.append("bring"))
    monkeypatch.setattr(sys, "argv", ["bundles", command])
    assert bundles.main() == 0
    assert order == [command, "bring"]

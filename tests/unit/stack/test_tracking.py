"""What follows a training or a promotion: what was recorded is brought to MLflow, and never in their way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deploy.local import bundles, tracking
from deploy.local.settings import LocalSettings


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

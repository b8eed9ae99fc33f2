"""Which bundle answers whom, by hand: what is asked for wrongly is refused before anything is made for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.local import bundles
from deploy.local.settings import LocalSettings


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was indexed, exported or served, in place of doing it."""
    done: list[Any] = []
    monkeypatch.setattr(bundles, "load_settings", lambda: LocalSettings(var_dir=tmp_path))
    monkeypatch.setattr(bundles, "prepare", lambda _, folder: done.append(folder.name))
    monkeypatch.setattr(bundles, "run", lambda _, role, *given, **__: done.append((role, *given)))
    monkeypatch.setattr(bundles, "runs", lambda _: True)
    return done


def ask(monkeypatch: pytest.MonkeyPatch, *given: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bundles", *given])
    return bundles.main()


@pytest.mark.parametrize(
    ("bundle", "share", "said"),
    [
        ("", "0.1", "BUNDLE is missing: name one that `make bundles` lists"),
        ("", "", "BUNDLE is missing"),
        ("toy-2", "", "SHARE is missing: say how much of the users"),
        ("toy-2", "2", "SHARE=2: must be a number, at least 0 and below 1"),
        ("toy-2", "1", "SHARE=1: must be"),
        ("toy-2", "-0.1", "SHARE=-0.1: must be"),
        ("toy-2", "nan", "SHARE=nan: must be"),
        ("toy-2", "half", "SHARE=half: must be"),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made: list[Any],
    bundle: str,
    share: str,
    said: str,
) -> None:
    assert ask(monkeypatch, "split", f"--bundle={bundle}", f"--share={share}") == 1
    error = capsys.readouterr().err
    assert said in error
    assert "`make split BUNDLE=" in error
    assert error.count("\n") == 1
    assert made == []


@pytest.mark.parametrize("asked", [("split", "--bundle=toy-2", "--share=0.1"), ("shadow", "--bundle=toy-2")])
def test_where_nothing_runs_nothing_is_made(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made: list[Any],
    asked: tuple[str, ...],
) -> None:
    monkeypatch.setattr(bundles, "runs", lambda _: False)
    assert ask(monkeypatch, *asked) == 1
    assert "start them by `make up`" in capsys.readouterr().err
    assert made == []


@pytest.mark.parametrize(("share", "prepared"), [("0.1", ["toy-2"]), ("0", [])])
def test_a_split_is_made_and_one_that_ends_needs_no_bundle_made(
    monkeypatch: pytest.MonkeyPatch, made: list[Any], share: str, prepared: list[str]
) -> None:
    assert ask(monkeypatch, "split", "--bundle=toy-2", f"--share={share}") == 0
    served = ("triton", "-m", "ensemble.publish.serve", "split", "--bundle", "toy-2", "--share")
    assert made == [*prepared, (*served, str(float(share)))]

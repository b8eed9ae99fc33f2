"""A file of settings: what it says counts below the environment, and what is wrong in it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import load_settings


def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> Path:
    file = tmp_path / "best.yaml"
    file.write_text(text)
    monkeypatch.setenv("SHORTLIST_SETTINGS", str(file))
    return file


def test_a_file_sets_what_it_names_and_the_environment_stands_above_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(monkeypatch, tmp_path, "seed: 3\ndlrm: {top: [8, 4]}\ntwo_tower: {width: 32, steps: 5}\n")
    monkeypatch.setenv("SHORTLIST_TWO_TOWER__STEPS", "7")
    settings = load_settings()
    assert (settings.seed, settings.dlrm.top) == (3, (8, 4))
    assert (settings.two_tower.width, settings.two_tower.steps, settings.two_tower.batch_size) == (
        32,
        7,
        1024,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("two_tower: {widht: 32}", "two_tower.widht: there is no such setting"),
        ("twotower: {width: 32}", "twotower: there is no such setting"),
        ("two_tower: {width: 0}", "two_tower.width=0: Input should be greater than 0"),
        ("seed: many", "seed=many: Input should be a valid integer"),
        ("two_tower: 5", "two_tower=5: Input should be a valid dictionary"),
        ("[1, 2]", "must hold settings by name"),
        ("{", "is no YAML"),
        (None, "No such file or directory"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: str | None,
    said: str,
) -> None:
    file = given(monkeypatch, tmp_path, text or "")
    if text is None:
        file.unlink()
    with pytest.raises(SystemExit) as stopped:
        load_settings()
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith(f"settings: SETTINGS={file}: {said}")
    assert error.count("\n") == 1

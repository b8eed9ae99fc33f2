"""A search of settings by a real Ray Tune, whose trials are of no weight."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.builders.toy_trainer import write_trainer
from training.record import FOLDER, TrainingState, read_facts, read_metrics, read_tables
from training.tuning.__main__ import main

SPACE = (
    "two_tower: {part: retrieval, settings: {ridge: [600, 550], width: {low: 32, high: 999, whole: true}}}"
)
ROOT = Path(__file__).parents[3]


def command(var: Path, trials: int, space: str = SPACE) -> list[str]:
    """Gives the arguments of a search below `var`."""
    (var / "space.yaml").write_text(space)
    trainer = write_trainer(var)
    return ["--trainer", str(trainer), "--trials", str(trials), "--space", str(var / "space.yaml")]


def started(var: Path, trials: int) -> subprocess.Popen[str]:
    environment = os.environ | {"SHORTLIST_VAR_DIR": str(var)}
    program = [sys.executable, "-m", "training.tuning", *command(var, trials)]
    return subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def calls(var: Path) -> list[str]:
    file = var / "calls"
    return file.read_text().splitlines() if file.is_file() else []


def test_a_search_that_is_killed_goes_on_leaves_out_what_fails_and_gives_the_best(tmp_path: Path) -> None:
    (tmp_path / "stall").touch()
    first = started(tmp_path, 4)
    until = time.monotonic() + 120
    while len(calls(tmp_path)) < 3:
        assert first.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    first.kill()
    first.wait()
    stalled = tmp_path / FOLDER / calls(tmp_path)[-1]
    while read_facts(stalled).state is TrainingState.RUNNING:
        assert time.monotonic() < until, "the trial dies with its search"
        time.sleep(0.05)
    (tmp_path / "stall").unlink()

    said, _ = (second := started(tmp_path, 4)).communicate(timeout=120)
    assert second.returncode == 0, said
    ran = calls(tmp_path)
    assert len(ran) == 5, "two had finished; the third is trained again, and the fourth"
    assert ran[2] == ran[3], "the same trials in the same order"
    (search,) = {read_facts(tmp_path / FOLDER / name).part_of for name in ran}
    assert search is not None
    best = yaml.safe_load((tmp_path / "tune" / search / "best.yaml").read_text())
    assert best == {"retrieval": "two_tower", "two_tower": {"ridge": 500.0, "width": 128}}, (
        "as set is the first"
    )
    assert f"tune/{search}/best.yaml" in said
    folder = tmp_path / FOLDER / search
    assert read_facts(folder).state is TrainingState.FINISHED
    (trials,) = read_tables(folder).values()
    assert [row["ridge"] for row in trials] == [500.0, 550, 550]
    curve = [one.value for one in read_metrics(folder) if one.name == "best"]
    assert curve == [1.0] * 3
    assert "SHORTLIST_TWO_TOWER__RIDGE=600: is refused" in said
    assert "3 of 4 trials, 1 failed; best 1.00000, trial 1" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--trials", "0"], "TRIALS=0: must be 1 or more"),
        (["--trials", "many"], "TRIALS=many: must be 1 or more"),
        (["--hours", "0"], "HOURS=0: must be a number above 0"),
        (["--hours", "nan"], "HOURS=nan: must be a number above 0"),
    ],
)
def test_a_wrong_number_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        main([*command(tmp_path, 1), *given])
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SHORTLIST_TWO_TOWER__RIDGE", "5", "SHORTLIST_TWO_TOWER__RIDGE: is what is searched"),
        ("SHORTLIST_RETRIEVAL", "two_tower", "SHORTLIST_RETRIEVAL: is what is searched"),
        ("SHORTLIST_QUALITY", "tiny", "QUALITY=tiny: "),
    ],
)
def test_what_would_make_a_search_useless_is_refused_before_it_begins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    monkeypatch.setenv(name, value)
    assert main(command(tmp_path, 1)) == 1
    assert capsys.readouterr().err.startswith(said)
    assert not (tmp_path / FOLDER).exists()

"""Two commits beside each other: each builds itself, and a ratio is of the same turn."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import compare_commits
from bench.compare_commits import Side, add_ratios
from bench.record import Record
from bench.servers import PORTS, BenchError

TELL = "@echo $@ $(DATA) $$SHORTLIST_PORT $$SHORTLIST_K >> told"
MAKEFILE = f"setup data:\n\t{TELL}\ntrain:\n\t{TELL}; mkdir -p var/bundles/current\n"


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Side:
    monkeypatch.setenv("SHORTLIST_K", "7")
    ports = dict.fromkeys(PORTS, 1) | {"port": 4711}
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "Makefile").write_text(MAKEFILE)
    return Side("0123456789abcdef", folder, "synthetic", ports)


def commands_run(side: Side) -> list[str]:
    """Lists what its Makefile was asked for."""
    return (side.folder / "told").read_text().splitlines()


def test_ratios_are_of_one_turn_and_come_with_their_spread() -> None:
    record = Record("none")
    add_ratios(
        record,
        "Commits",
        ("old", "new"),
        [{"p50": 10.0}, {"p50": 20.0}, {"p50": 40.0}],
        [{"p50": 5.0}, {"p50": 5.0}, {"p50": 40.0}],
    )
    (row,) = record.rows
    assert row.figures == {"old": 20.0, "new": 5.0, "ratio": 0.5, "least": 0.25, "most": 1.0}


def test_it_trains_by_its_own_commands_once_and_with_none_of_this_checkouts_settings(side: Side) -> None:
    side.prepare(None)
    assert commands_run(side) == ["setup synthetic 4711", "train synthetic 4711"], (
        "an old one promotes as it trains"
    )
    side.prepare(None)
    assert commands_run(side)[2:] == ["setup synthetic 4711"]


def test_where_there_is_a_command_that_promotes_it_is_given(side: Side) -> None:
    with (side.folder / "Makefile").open("a") as file:
        file.write("promote:\n\t@echo promoted >> told\n")
    side.prepare(None)
    assert commands_run(side)[2:] == ["promoted"]


def test_a_bundle_that_is_given_is_not_trained(side: Side, tmp_path: Path) -> None:
    side.prepare(tmp_path)
    assert commands_run(side) == ["setup synthetic 4711", "data synthetic 4711"]
    assert side.bundle.resolve() == tmp_path


def test_what_fails_is_named_with_its_log(side: Side) -> None:
    (side.folder / "Makefile").write_text("setup:\n\t@echo broken; false\n")
    with pytest.raises(BenchError, match="make setup failed; see") as caught:
        side.prepare(None)
    assert "broken" in Path(str(caught.value).rpartition("see ")[2]).read_text()


def test_an_unknown_commit_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["compare_commits", "no-such-commit"])
    assert compare_commits.main() == 1
    assert "no-such-commit" in capsys.readouterr().err


def test_one_commit_twice_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    monkeypatch.setattr("sys.argv", ["compare_commits", "HEAD", head])
    assert compare_commits.main() == 1
    assert "the same commit" in capsys.readouterr().err

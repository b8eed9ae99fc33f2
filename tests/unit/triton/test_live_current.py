"""Who works on a data set's streams while another bundle becomes current."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from contract.dataset import DATASET_FILE, Dataset
from live import __main__ as program
from tests.builders.triton import DATASET

LOOK_S, WITHIN_S = 0.01, 10.0


def declare(folder: Path, name: str, ttl_s: str = "{}") -> Path:
    folder.mkdir()
    (folder / DATASET_FILE).write_text(DATASET.format(name=name, ttl_s=ttl_s))
    return folder


def move(link: Path, folder: Path) -> None:
    fresh = link.with_suffix(".fresh")
    fresh.symlink_to(folder)
    fresh.replace(link)


def test_one_of_another_data_set_ends_nobody_and_one_that_declares_it_otherwise_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "LOOK_S", LOOK_S)
    ours, stop = declare(tmp_path / "ours", "tiny"), threading.Event()
    move(link := tmp_path / "current", ours)
    looking = threading.Thread(target=program._end_with, args=(Dataset.load(ours), link, stop))
    looking.start()
    try:
        move(link, declare(tmp_path / "other", "other"))
        assert not stop.wait(20 * LOOK_S)
        move(link, declare(tmp_path / "otherwise", "tiny", "{user_activity: 60}"))
        assert stop.wait(WITHIN_S)
    finally:
        stop.set()
        looking.join()
    said = capsys.readouterr().out
    assert said.count("is of other now; tiny goes on until all are started anew") == 1
    assert said.count("declares its data set otherwise; to be started anew") == 1

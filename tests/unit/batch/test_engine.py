"""A cluster that is not there is told at once, in one line."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from batch.compute import engine
from batch.compute.engine import FOLDER, _clear_left_folders, connected
from batch.errors import BatchError
from batch.settings import BatchSettings
from tests.builders.ports import free_port


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "must be host:port, or ray://host:port"),
        ("host:port", "must be host:port, or ray://host:port"),
        ("127.0.0.1:{port}", "Connection refused; start the cluster, or leave the address out"),
        ("ray://127.0.0.1:{port}", "Connection refused; start the cluster, or leave the address out"),
        ("127.0.0.1:99999", "start the cluster, or leave the address out"),
        ("no.such.host.invalid:6379", "start the cluster, or leave the address out"),
    ],
)
def test_a_cluster_that_does_not_answer_is_told(address: str, said: str) -> None:
    address = address.format(port=free_port())
    with (
        pytest.raises(BatchError, match=f"SHORTLIST_BATCH_ADDRESS={address}: .*{said}") as caught,
        connected(BatchSettings(address=address)),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_another_server_is_told_from_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis has the port that clusters have as well; Ray would go on asking it for minutes."""
    monkeypatch.setattr(engine, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(BatchError, match=f"SHORTLIST_BATCH_ADDRESS={address}: what answers there is not"),
            connected(BatchSettings(address=address)),
        ):
            pass


def test_what_killed_runs_left_is_deleted_and_what_lives_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, alive, other = (tmp_path / name for name in (f"{FOLDER}4194305-a", f"{FOLDER}{os.getpid()}-b", "c"))
    for folder in (dead, alive, other):
        (folder / "session").mkdir(parents=True)
    _clear_left_folders()
    assert sorted(tmp_path.iterdir()) == sorted([alive, other])

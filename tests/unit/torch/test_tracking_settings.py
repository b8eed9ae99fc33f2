"""Where trainings are tracked: what may be set, and what is said of what may not."""

from __future__ import annotations

import pytest

from contract.environment import read_settings
from training.tracking.settings import TrackingSettings


@pytest.mark.parametrize(
    "value", ["local", "off", "http://127.0.0.1:5000", "https://mlflow.example.com/team"]
)
def test_a_place_is_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SHORTLIST_MLFLOW", value)
    assert TrackingSettings().mlflow == value


def test_an_embedded_one_is_an_sqlite_file_below_var(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", "/somewhere/var")
    monkeypatch.delenv("SHORTLIST_MLFLOW")
    assert TrackingSettings().uri == "sqlite:////somewhere/var/mlflow/mlflow.db"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SHORTLIST_MLFLOW", "sqlite:///x.db", "must be local, off, or a server's http://host:port"),
        ("SHORTLIST_MLFLOW", "http://", "must be local, off, or a server's http://host:port"),
        ("SHORTLIST_MLFLOW", "http://a:b:c", "must be local, off, or a server's http://host:port"),
        ("SHORTLIST_MLFLOW", "http://me:hushhush@host", "set MLFLOW_TRACKING_USERNAME"),
        ("SHORTLIST_MLFLOW_PORT", "0", "SHORTLIST_MLFLOW_PORT=0: "),
    ],
)
def test_another_is_refused_in_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        read_settings(TrackingSettings)
    error = capsys.readouterr().err
    assert name in error
    assert said in error
    assert error.count("\n") == 1
    assert "hushhush" not in error

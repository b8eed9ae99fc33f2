"""Where trainings are tracked, from `SHORTLIST_*`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.environment import SECRET

LOCAL, OFF = "local", "off"
Port = Annotated[int, Field(ge=1, le=65535)]


def is_place(value: str) -> str:
    """Takes `local`, `off`, or the address of a server, gives it without a slash at its end.

    Raises:
        PydanticCustomError: it is none; nothing of it is repeated, as a part may be a password.
    """
    if value in (LOCAL, OFF):
        return value
    try:
        parts = urlsplit(value)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or parts.query or parts.fragment:
        raise PydanticCustomError(SECRET, f"must be {LOCAL}, {OFF}, or a server's http://host:port")
    if parts.username or parts.password:
        raise PydanticCustomError(
            SECRET, "must hold no password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return value.rstrip("/")


class TrackingSettings(BaseSettings):
    """Whether and where MLflow keeps what trainings recorded."""

    model_config = SettingsConfigDict(
        env_prefix="SHORTLIST_", frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    var_dir: Path = Field(Path("var"), description="Where the records of trainings, and bundles, are kept.")
    mlflow: Annotated[str, AfterValidator(is_place)] = Field(
        LOCAL,
        description="local: an SQLite file under var/mlflow. http://host:port: a server. off: records stay "
        "files, and are brought once this is something else.",
    )
    mlflow_port: Port = Field(5000, description="Port of MLflow's page; change it where it is taken.")

    @property
    def folder(self) -> Path:
        """Where the embedded MLflow keeps its files, absolute."""
        return self.var_dir.resolve() / "mlflow"

    @property
    def database(self) -> Path:
        """The embedded MLflow's SQLite file."""
        return self.folder / "mlflow.db"

    @property
    def uri(self) -> str:
        """What MLflow is opened by."""
        return f"sqlite:///{self.database}" if self.mlflow == LOCAL else self.mlflow

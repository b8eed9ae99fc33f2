"""`python -m training.tracking bring|page`: brings what trainings recorded to MLflow, or opens its page.

Runs in the role torch, which has MLflow; training itself writes files and knows nothing of it.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from contract.bundle import BundleError
from contract.environment import is_full_disk, read_settings
from training.tracking.settings import LOCAL, OFF, TrackingSettings
from training.tracking.store import QUIET, ExperimentStore, TrackingError, is_of_mlflow

LOOPBACK = "127.0.0.1"
VIEW = "/#/experiments?workflowType=machine_learning"
"""Trainings; MLflow's page begins with conversations."""


def run_bring(settings: TrackingSettings) -> None:
    """Brings what has ended, and lets the registry's aliases follow.

    Raises:
        TrackingError: MLflow cannot be told.
    """
    from training.tracking.bring import bring
    from training.tracking.registry import follow, register

    if settings.mlflow == OFF:
        return
    if settings.mlflow == LOCAL and not settings.database.is_file():
        say(f"making {settings.database}, about 10 s")
    store = ExperimentStore(settings)
    bring(settings.var_dir, store, say)
    register(settings.var_dir, store)
    for line in follow(settings.var_dir, store):
        say(line)


def run_page(settings: TrackingSettings) -> None:
    """Becomes MLflow's server on loopback; of a server elsewhere it says the address."""
    if settings.mlflow != LOCAL:
        say("SHORTLIST_MLFLOW=off: there is no page" if settings.mlflow == OFF else f"at {settings.mlflow}")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, settings.mlflow_port))
        except OSError:
            raise TrackingError(
                f"port {settings.mlflow_port} is taken: set SHORTLIST_MLFLOW_PORT to a free one"
            ) from None
    say(f"http://{LOOPBACK}:{settings.mlflow_port}{VIEW} in about 20 s, until Ctrl-C")
    server = ["-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(settings.mlflow_port)]
    server += ["--workers", "1", "--backend-store-uri", settings.uri]
    server += ["--default-artifact-root", (settings.folder / "artifacts").as_uri()]
    os.execve(sys.executable, [sys.executable, *server], QUIET | os.environ)


def say(line: str) -> None:
    """Writes a line at once."""
    sys.stdout.write(f"tracking  {line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0, or 1 with one line that says what is wrong."""
    settings = read_settings(TrackingSettings)
    parser = argparse.ArgumentParser(prog="python -m training.tracking", description=__doc__)
    parser.add_argument("command", choices=("bring", "page"))
    chosen = parser.parse_args(arguments)
    try:
        run_bring(settings)
        if chosen.command == "page":
            run_page(settings)
    except (TrackingError, BundleError) as error:
        sys.stderr.write(f"tracking  {error}\n")
        return 1
    except Exception as error:
        if not (is_of_mlflow(error) or is_full_disk(error)):
            raise
        said = " ".join(str(error).split())[:300]
        sys.stderr.write(f"tracking  {settings.uri}: {said}; what is not there is brought the next time\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m deploy.local.tracking`: brings to MLflow what was recorded, after a training or a promotion.

Records stay in `var/trainings`, so nothing fails by what is done here: where the role torch, which has
MLflow, is not built, or MLflow is away, a line says so, and the next time brings them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from pydantic import ValidationError

from contract.environment import describe
from deploy.local.settings import ROOT, LocalSettings, load_settings, python_of
from training.record import FACTS_FILE, trainings
from training.tracking.settings import OFF, TrackingSettings

ROLE = "torch"


def bring(settings: LocalSettings, since: float | None = None) -> None:
    """Brings what is not there yet; nothing where nothing was recorded `since`, in seconds since 1970."""
    if since is not None and not is_recorded(settings, since):
        return
    try:
        if TrackingSettings().mlflow == OFF:
            return
    except ValidationError as error:
        print(f"tracking  {describe(error)}", file=sys.stderr, flush=True)
        return
    python = python_of(ROLE)
    if not python.is_file():
        print("tracking  recorded in var/trainings; `make mlflow` builds MLflow and shows it", flush=True)
        return
    command = [str(python), "-m", "training.tracking", "bring"]
    subprocess.run(command, cwd=ROOT, env=os.environ | settings.environment(), check=False)


def is_recorded(settings: LocalSettings, since: float) -> bool:
    """Whether a training began or ended since then."""
    return any((folder / FACTS_FILE).stat().st_mtime >= since for folder in trainings(settings.var))


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.tracking", description=__doc__)
    parser.add_argument(
        "--since", type=float, help="do nothing where nothing was recorded since, in seconds since 1970"
    )
    bring(load_settings(), parser.parse_args().since)


if __name__ == "__main__":
    main()

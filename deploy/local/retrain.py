"""`python -m deploy.local.retrain`: trains on all that is known by now, and promotes what is not worse.

Prepare with the archive, train, measure the current bundle on the same newest days, the gate, features of who
came since, promotion: each step as its own command does it. Two never run at once. Whatever fails leaves what
is served as it was.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.bundle import BundleError
from deploy.local.bundles import CommandFailed, promote, run, runs, say
from deploy.local.settings import LocalSettings, load_settings
from deploy.local.tracking import bring

LOCK = "retrain.lock"


@contextmanager
def alone(var: Path) -> Iterator[None]:
    """Holds the lock within the block; the system lets go of it with the process, however that ends.

    Raises:
        BlockingIOError: another training is at work.
    """
    var.mkdir(parents=True, exist_ok=True)
    with (var / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def retrain(settings: LocalSettings, reason: str) -> None:
    """Trains, then promotes what `latest` names by then, if it passes; first its users and items get their
    features, where the servers run.

    Raises:
        CommandFailed: a step failed, or the gate refused; it has said why.
    """
    run(settings, "training", "-m", "training", "retrain", "--reason", reason, show=True)
    latest = (settings.var / "bundles" / "latest").readlink().name
    run(settings, "training", "-m", "training", "promote", "--check", "--bundle", latest)
    if runs(settings):
        run(settings, "training", "-m", "training", "features", show=True)
        run(settings, "training", "-m", "feature_repo", "materialize", show=True)
    promote(settings, latest, force=False)


def main() -> int:
    """Runs it; 0, 75 where another one is at work, else the status of what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reason", default="by hand", help="why: it stands in the manifest")
    chosen, settings = parser.parse_args(), load_settings()
    try:
        with alone(settings.var):
            try:
                retrain(settings, chosen.reason)
            finally:
                bring(settings)
    except BlockingIOError:
        say("another training is at work; this one did nothing")
        return 75
    except CommandFailed as failed:
        say("nothing was promoted; what is served stays")
        return int(failed.args[0])
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

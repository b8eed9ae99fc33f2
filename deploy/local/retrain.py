"""`python -m deploy.local.retrain`: trains on all that is known by now, and promotes what is not worse.

Prepare with the archive, train, measure the current bundle on the same newest days, the gate, features of who
came since, promotion: each step as its own command does it. Two never run at once. Whatever fails leaves what
is served as it was. Its begin and its end are written where `python -m batch retraining` looks, so that no
other is begun for the same events.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace

from redis.exceptions import RedisError

from batch.schedule.training_lock import AT_WORK, alone
from batch.schedule.tried import Tried, TriedTrainings
from contract.bundle import BundleError
from contract.bundles import LATEST, bundles_folder
from deploy.local.bundles import CommandFailed, promote, run, runs, say
from deploy.local.routing import dataset_of
from deploy.local.settings import LocalSettings, load_settings
from deploy.local.tracking import bring
from ensemble.stores.client import connect

TIMEOUT_MS = 2000.0


def retrain(settings: LocalSettings, reason: str) -> None:
    """Trains, then promotes what `latest` names by then, if it passes; first its users and items get their
    features, where the servers run.

    Raises:
        CommandFailed: a step failed, or the gate refused; it has said why.
    """
    run(settings, "training", "-m", "training", "retrain", "--reason", reason, show=True)
    latest = (bundles_folder(settings.var) / LATEST).readlink().name
    run(settings, "training", "-m", "training", "promote", "--check", "--bundle", latest)
    if runs(settings):
        run(settings, "training", "-m", "training", "features", show=True)
        run(settings, "training", "-m", "feature_repo", "materialize", show=True)
    promote(settings, latest, force=False)


def try_it(settings: LocalSettings, reason: str) -> int:
    """Runs it; 0, else the status of what failed, which was told."""
    since: float | None = time.time()
    try:
        retrain(settings, reason)
        since = None  # what moved may have been recorded before
    except CommandFailed as failed:
        say("nothing was promoted; what is served stays")
        return int(failed.args[0])
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        bring(settings, since)
    return 0


def recorded(settings: LocalSettings, reason: str) -> int:
    """Runs it, and writes its begin and its end where the schedule looks; where Redis does not answer, or
    nothing was promoted yet, nobody looks. Gives the status of `try_it`."""
    dataset, tried = dataset_of(settings), None
    with closing(connect(settings.redis, TIMEOUT_MS)) as client:
        trainings = TriedTrainings(client, dataset)
        with suppress(RedisError):
            if dataset:
                tried = Tried(time.time(), trainings.events(), reason)
                trainings.keep(tried)
        status = try_it(settings, reason)
        with suppress(RedisError):
            if tried is not None:
                trainings.keep(replace(tried, status=status))
    return status


def main() -> int:
    """Runs it; 0, 75 where another one is at work, else the status of what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reason", default="by hand", help="why: it stands in the manifest")
    chosen, settings = parser.parse_args(), load_settings()
    try:
        with alone(settings.var):
            return recorded(settings, chosen.reason)
    except BlockingIOError:
        say("another training is at work; this one did nothing")
        return AT_WORK


if __name__ == "__main__":
    sys.exit(main())

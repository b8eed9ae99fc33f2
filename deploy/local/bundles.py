"""Which bundle answers whom, by hand: `python -m deploy.local.bundles promote|rollback|split|shadow|list`.

Where the servers run, a bundle is indexed, exported, loaded and warm before the routing record changes, in
one write, and no server is restarted; whatever fails before that leaves what was served. The link `current`,
which a cold start follows, moves last. Where nothing runs, it is all that moves; `make up` serves its bundle.
A bundle of another data set than is served waits until nothing runs: what is started anew follows the link.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from math import nan
from pathlib import Path

from contract.bundle import BundleError, read_manifest
from contract.bundles import bundles_folder
from deploy.local.routing import dataset_of
from deploy.local.settings import LOOPBACK, ROOT, LocalSettings, load_settings, python_of
from deploy.local.supervisor import Supervisor, socket_path
from deploy.local.tracking import bring
from ensemble.stores.routing import bundle_folder
from ensemble.triton.repository import ModelRepository

EXAMPLE = "`make split BUNDLE=movielens-20261129-120000-1a2b3c4d SHARE=0.1`"


class CommandFailed(Exception):
    """A command of another role ended with this status, and has said why."""


def promote(settings: LocalSettings, name: str | None, *, force: bool) -> None:
    """Makes a bundle the champion and the current one, by default the one trained last, if it passes."""
    given = [*(["--bundle", name] if name else []), *(["--force"] if force else [])]
    chosen = run(settings, "training", "-m", "training", "promote", "--check", *given)
    move(settings, chosen, ["promote", *given])


def rollback(settings: LocalSettings) -> None:
    """Makes the bundle the champion and the current one that was so before."""
    chosen = run(settings, "training", "-m", "training", "rollback", "--check")
    move(settings, chosen, ["rollback"])


def move(settings: LocalSettings, bundle: str, moved: Sequence[str]) -> None:
    """Serves a bundle that passed the gate, where the servers run, then moves the link.

    Raises:
        BundleError: they serve another data set; what is served goes on.
    """
    folder = bundles_folder(settings.var) / bundle
    if serves_another(settings, folder):
        raise BundleError(_another(settings, folder, moved))
    is_at_once = runs(settings) and bool(dataset_of(settings))
    if is_at_once:
        prepare(settings, folder)
        serve(settings, "promote", "--bundle", bundle, "--why", moved[0])
    run(settings, "training", "-m", "training", *moved, show=True)
    if not is_at_once:
        say("next: make materialize export up")


def serves_another(settings: LocalSettings, folder: Path) -> bool:
    """Whether the servers run, and serve another data set than a bundle's."""
    is_another = dataset_of(settings) not in ("", read_manifest(folder, verify=False).dataset)
    return is_another and bool(running(settings) - {"redis"})


def _another(settings: LocalSettings, folder: Path, moved: Sequence[str]) -> str:
    """Says why a bundle of another data set is not served now, and what serves it."""
    dataset, served = read_manifest(folder, verify=False).dataset, dataset_of(settings)
    given = [f"BUNDLE={folder.name}"] if moved[0] == "promote" else []
    given += ["FORCE=1"] if "--force" in moved else []
    command = " ".join(["make down", moved[0], "materialize export up", *given])
    return (
        f"{folder.name}: is of the data set {dataset}, and the servers serve {served}, one at a time; "
        f"current stays. To serve {dataset} instead: `{command}`, with DATA= as the bundle was trained on it"
    )


def split(settings: LocalSettings, bundle: str, share: float) -> None:
    """Gives a bundle a share of the users; 0 ends its arm."""
    check_runs(settings)
    if share:
        prepare(settings, bundle_folder(settings.bundle, bundle))
    serve(settings, "split", "--bundle", bundle, "--share", str(share))


def shadow(settings: LocalSettings, bundle: str | None) -> None:
    """Asks a bundle beside the champion; none ends that."""
    check_runs(settings)
    if bundle:
        prepare(settings, bundle_folder(settings.bundle, bundle))
    serve(settings, "shadow", *(["--bundle", bundle] if bundle else []))


def show(settings: LocalSettings) -> None:
    """Lists the bundles and how `current` moved; then who is served what now."""
    run(settings, "training", "-m", "training", "bundles", show=True)
    if runs(settings):
        serve(settings, "show")


def prepare(settings: LocalSettings, folder: Path) -> None:
    """Indexes and exports a bundle, unless Triton has it loaded."""
    read_manifest(folder, verify=False)
    repository = ModelRepository(LOOPBACK, settings.triton_http_port)
    with suppress(OSError, HTTPException, ValueError):
        if folder.name in repository.ready():
            return
    for command in ("index", "export"):
        run(settings, "triton", "-m", f"ensemble.publish.{command}", "--bundle", str(folder), show=True)


def serve(settings: LocalSettings, *arguments: str) -> None:
    """Changes the routing record, or shows it."""
    check_runs(settings)
    run(settings, "triton", "-m", "ensemble.publish.serve", *arguments, show=True)


def check_runs(settings: LocalSettings) -> None:
    """Looks whether there is anything that can serve.

    Raises:
        BundleError: there is not.
    """
    if not runs(settings):
        raise BundleError("the servers do not run: start them by `make up`")


def runs(settings: LocalSettings) -> bool:
    """Whether this machine's Triton runs."""
    return "triton" in running(settings)


def running(settings: LocalSettings) -> set[str]:
    """Names the servers of this machine that run."""
    supervisor = Supervisor(socket_path(settings))
    states = supervisor.states() if supervisor.is_up() else {}
    return {name for name, state in states.items() if state["statename"] == "RUNNING"}


def run(settings: LocalSettings, role: str, *arguments: str, show: bool = False) -> str:
    """Runs a command of a role, which says itself what is wrong; gives what it printed, or shows it.

    Raises:
        CommandFailed: it ended with another status than 0.
    """
    variables = os.environ | settings.environment()
    output = None if show else subprocess.PIPE
    command = [str(python_of(role)), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=variables, stdout=output, text=True)
    if done.returncode:
        raise CommandFailed(done.returncode)
    return (done.stdout or "").strip()


def say(line: str) -> None:
    """Prints a line, before what the next command prints."""
    print(line, flush=True)


def wish_of(bundle: str, share: str) -> tuple[str, float]:
    """Reads what `make split` was given, before anything is made for it.

    Raises:
        BundleError: a part is missing, or the share is none.
    """
    if not bundle:
        raise BundleError(f"BUNDLE is missing: name one that `make bundles` lists, as {EXAMPLE}")
    if not share:
        raise BundleError(f"SHARE is missing: say how much of the users, as {EXAMPLE}; SHARE=0 ends it")
    try:
        wanted = float(share)
    except ValueError:
        wanted = nan
    if not 0 <= wanted < 1:
        raise BundleError(f"SHARE={share}: must be a number, at least 0 and below 1, as {EXAMPLE}")
    return bundle, wanted


def main() -> int:
    """Runs one command; 0, or the status of what failed, which has said why."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    promoted = commands.add_parser("promote")
    promoted.add_argument("--bundle", help="its name (default: the one trained last)")
    promoted.add_argument("--force", action="store_true", help="even where it is worse; the log says so")
    commands.add_parser("rollback")
    divided = commands.add_parser("split")
    divided.add_argument("--bundle", default="", help="its name")
    divided.add_argument("--share", default="", help="of the users; 0 ends it")
    shadowed = commands.add_parser("shadow")
    shadowed.add_argument("--bundle", help="none ends it")
    commands.add_parser("list")
    chosen, settings = parser.parse_args(), load_settings()
    try:
        if chosen.command == "promote":
            promote(settings, chosen.bundle, force=chosen.force)
            bring(settings)
        elif chosen.command == "rollback":
            rollback(settings)
            bring(settings)
        elif chosen.command == "split":
            split(settings, *wish_of(chosen.bundle, chosen.share))
        elif chosen.command == "shadow":
            shadow(settings, chosen.bundle)
        else:
            show(settings)
    except CommandFailed as failed:
        return int(failed.args[0])
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

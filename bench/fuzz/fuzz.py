"""Asks every route of a running gateway whatever its description allows and forbids, for a given time.

`python -m bench.fuzz.fuzz [--minutes 1]` copies what `make up` would serve and serves it on ports of its own,
with an API key, so that nothing that runs is disturbed and no answer is missing its key by accident.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.fuzz.hooks import STATUSES
from bench.fuzz.report import Found
from deploy.local.programs import http_fault
from deploy.local.settings import ROOT, load_settings, python_of
from service.api_keys import digest_of, make_key
from tests.builders.world import World, eventually

CONFIG = Path(__file__).with_name("schemathesis.toml")
KEY = "SHORTLIST_FUZZ_KEY"
SETTINGS = {"EVENTS__UNKNOWN_ITEMS": "keep"}
"""Of a gateway that is asked: no description can say which items there are."""


class FuzzFailed(Exception):
    """The run could not be made; its end says why."""


def fuzz(url: str, folder: Path, seconds: int, key: str, seed: int) -> Found:
    """Runs schemathesis against a gateway for so many seconds; its reports are left in the folder.

    Raises:
        FuzzFailed: it did not get as far as a report.
    """
    report, statuses = folder / "schemathesis.json", folder / "statuses.json"
    command = [str(python_of("dev").with_name("schemathesis")), "--config-file", str(CONFIG), "run"]
    command += [f"{url}/openapi.json", "--max-time", str(seconds), "--seed", str(seed), "--no-color"]
    command += ["--report", "json", "--report-json-path", str(report), "--generation-database", "none"]
    environment = os.environ | {KEY: key, STATUSES: str(statuses), "PYTHONPATH": str(ROOT)}
    with (folder / "schemathesis.log").open("w") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if not report.is_file() or not statuses.is_file():
        raise FuzzFailed((folder / "schemathesis.log").read_text()[-3000:])
    return Found.read(report, statuses)


def fuzz_own_stack(folder: Path, seconds: int, seed: int) -> Found:
    """Serves a copy of the settings' world on free ports, asks it, and stops it again."""
    settings, key = load_settings(), make_key()
    if not (settings.bundle / "manifest.json").is_file() or not (settings.var / "models").is_dir():
        raise FuzzFailed(f"nothing to serve in {settings.var}: run `make demo` first")
    world = World(settings.var, {}).copy(folder / "var")
    try:
        # A busy machine is no failure of the gateway's: its budget has tests of its own.
        patient = SETTINGS | {"CHECK_TIMEOUT_MS": "5000", "STORE_TIMEOUT_MS": "2000"}
        up = world.stack("up", API_KEYS=f"fuzz:{digest_of(key.encode())}", **patient)
        if up.returncode:
            raise FuzzFailed(up.stdout + up.stderr)
        if not eventually(lambda: not http_fault(f"{world.url}/readyz")):
            raise FuzzFailed(f"not ready: {http_fault(f'{world.url}/readyz')}")
        return fuzz(world.url, folder, seconds, key, seed)
    finally:
        world.down()


def main() -> int:
    """Prints what was asked and answered; 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to ask (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed asks the same first (default: 0)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shortlist-fuzz-") as folder:
        try:
            found = fuzz_own_stack(Path(folder), max(1, round(given.minutes * 60)), given.seed)
        except FuzzFailed as error:
            print(error, file=sys.stderr)
            return 1
        log = (Path(folder) / "schemathesis.log").read_text()
    if found.wrong:
        print(log)
    print(
        f"schemathesis {found.version}, seed {given.seed}: {found.examples:,} examples of {found.operations} "
        f"operations in {found.seconds:.0f} s; {len(found.wrong)} kinds of failure\n\n{found.markdown()}"
    )
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""The whole path with one command: prepare, train, promote, materialise, serve, ask, measure, stop.

`python -m deploy.local.demo [--keep] [--force]`; what is unchanged since the last run is reused.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import replace
from types import FrameType

import httpx
from rich.console import Console
from rich.rule import Rule

from contract.bundles import LATEST, bundles_folder
from deploy.local import answers, stack, tracking
from deploy.local.bundles import serves_another
from deploy.local.ports import PortTaken
from deploy.local.settings import LocalSettings, load_settings
from deploy.local.steps import Step, StepFailed, Steps

LOAD_S = 10
PATH = (
    Step("prepare", "training", ("-m", "training", "prepare")),
    Step("train", "training", ("-m", "training", "train")),
    Step("promote", "training", ("-m", "training", "promote")),
    Step("features", "training", ("-m", "training", "features")),
    Step("materialize", "training", ("-m", "feature_repo", "materialize")),
    Step("index", "triton", ("-m", "ensemble.publish.index")),
    Step("export", "triton", ("-m", "ensemble.publish.export")),
)
"""The commands from raw files to what Triton serves, in order."""
QUALITY = Step("evaluate", "training", ("-m", "training", "evaluate"))
LOAD = Step("load", "dev", ("-m", "bench.load.load", "--duration", str(LOAD_S)))


def run_demo(console: Console, settings: LocalSettings, *, force: bool = False) -> None:
    """Runs the path and shows what came out; leaves the servers running. `force`: promotes a worse bundle."""
    steps = Steps(settings, dict(os.environ) | settings.environment())
    for step in PATH:
        console.print(Rule(step.name, align="left"))
        if step.name == "promote" and serves_another(settings, bundles_folder(settings.var) / LATEST):
            stack.down(settings)  # the other data set: its servers would find this one's bundle
        if step.name == "materialize":
            stack.up(settings, ["redis"])
        given = ("--force",) if force and step.name == "promote" else ()
        seconds = steps.run(replace(step, arguments=(*step.arguments, *given)))
        console.print(f"    done after {seconds:.1f} s")
    console.print(Rule("serve", align="left"))
    stack.up(settings)
    console.print(Rule("ask", align="left"))
    answers.show_answers(console, settings)
    console.print(Rule("quality on the test days", align="left"))
    steps.run(QUALITY)
    console.print(Rule(f"load, {LOAD_S} seconds", align="left"))
    steps.run(LOAD)
    console.print(Rule("tracking", align="left"))
    tracking.bring(settings)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Turns a request to end into the same clean stop as Ctrl-C."""
    raise KeyboardInterrupt


def main() -> int:
    """Runs the demo and stops everything, whatever happens; 0, or 1 with what failed and its log's end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the servers running")
    parser.add_argument("--force", action="store_true", help="promote the bundle even where it is worse")
    chosen = parser.parse_args()
    settings, console, started = load_settings(), Console(highlight=False), time.monotonic()
    signal.signal(signal.SIGTERM, interrupt)
    code = 1
    try:
        run_demo(console, settings, force=chosen.force)
        code = 0
    except StepFailed as error:
        print(f"\n{error}; the end of {error.log}:\n{stack.log_tail(error.log, 30)}", file=sys.stderr)
    except (stack.StackError, PortTaken, RuntimeError, httpx.HTTPError) as error:
        print(f"\n{error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted; stopping everything", file=sys.stderr)
        code = 130
    finally:
        if code or not chosen.keep:
            console.print(Rule("stop", align="left"))
            stack.down(settings)
    if code == 0:
        console.print(f"\nThe whole path took {time.monotonic() - started:.0f} s.")
        if chosen.keep:
            console.print(f"Serving at {settings.gateway_url} until `make down`.")
    return code


if __name__ == "__main__":
    sys.exit(main())

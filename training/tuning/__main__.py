"""`python -m training.tuning`: searches the settings of one model by what validation says, `make tune`.

Runs in the role torch, which has Ray Tune; each trial is the training command of the role training. The test
part is not looked at.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from contract.environment import explain_full_disk, is_full_disk
from training.config import QualityLevel, SettingError, TrainingSettings, load_settings
from training.record import TrainingFacts, instant, recorded
from training.settings_file import SETTING, read_file
from training.tuning.search import search
from training.tuning.space import SPACE, SearchSpace, current, read_space
from training.tuning.trial import TrialRunner
from training.tuning.trial_log import VALUE, TrialLog

ROOT = Path(__file__).parents[2]
TRIALS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches; 0, 1 with one line that says what is wrong, or 130 where it was interrupted."""
    settings = load_settings()
    chosen = parser(settings).parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(settings, chosen)
    except SettingError as error:
        sys.stderr.write(f"{error}\n")
    except BlockingIOError:
        sys.stderr.write("this search is at work already; wait for it, or end it\n")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130
    except OSError as error:
        if not is_full_disk(error):
            raise
        sys.stderr.write(f"{explain_full_disk(error, settings.var_dir)}\n")
    return 1


def run(settings: TrainingSettings, chosen: argparse.Namespace) -> int:
    """Searches with settings and a command line that were read.

    Raises:
        SettingError: what is asked for cannot be searched.
    """
    if settings.quality is QualityLevel.TINY:
        raise SettingError("QUALITY=tiny: has sizes of its own, whatever is set; search with another")
    model = chosen.model or settings.retrieval
    space = read_space(chosen.space, model)
    check_environment(space, model)
    dataset, data_version, fingerprint = data_identity(chosen.trainer)
    now = current(space, settings, model)
    made_of = hashlib.sha256(f"{fingerprint} {model} {space.model_dump_json()}".encode()).hexdigest()
    path = os.environ.get(SETTING)
    runner = TrialRunner(
        search=f"{dataset}-tune-{model}-{made_of[:8]}",
        model=model,
        space=space,
        base=read_file(Path(path), TrainingSettings) if path else {},
        var=settings.var_dir.resolve(),
        trainer=chosen.trainer.absolute(),
        root=ROOT,
        environment=dict(os.environ),
    )
    facts = TrainingFacts(
        name=runner.search,
        kind="tune",
        dataset=dataset,
        data_version=data_version,
        parameters={"model": model, "seed": str(settings.seed), "trials": str(chosen.trials)}
        | {f"space.{name}": str(values) for name, values in space.settings.items()},
        began=instant(),
    )
    measure = "NDCG@100 of validation" if space.is_more_better else "log loss of validation's exposures"
    say(f"{runner.search}: {chosen.trials} trials, judged by {measure}")
    with recorded(runner.var, facts) as record:
        log = TrialLog(runner, chosen.trials, record, say)
        search(runner, now, log, seed=settings.seed, hours=chosen.hours, at_once=chosen.at_once)
        if not log.rows:
            raise SettingError(f"no trial finished: {log.failed[0] if log.failed else 'give it more HOURS'}")
    done, failed, best = len(log.rows), len(log.failed), log.best
    outcome = f"best {best[VALUE]:.5f}, trial {best['trial'] + 1}"
    say(f"{done} of {chosen.trials} trials, {failed} failed; {outcome}")
    file, here = log.best_file, Path.cwd()
    say(f"next: make train SETTINGS={file.relative_to(here) if file.is_relative_to(here) else file}")
    return 0


def data_identity(trainer: Path) -> tuple[str, str, str]:
    """Lets the role training prepare the data; gives the data set's name, its version, and a fingerprint.

    Raises:
        SettingError: it cannot; it has said why.
    """
    command = [str(trainer), "-m", "training", "trial", "--check"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SettingError("the data could not be prepared; nothing was searched")
    name, data_version, fingerprint = done.stdout.strip().splitlines()[-1].split()
    return name, data_version, fingerprint


def check_environment(space: SearchSpace, model: str) -> None:
    """Looks for settings of the environment that would stand above those of a trial.

    Raises:
        SettingError: there is one.
    """
    wanted = [f"SHORTLIST_{space.chooser}", f"SHORTLIST_{model}"]
    wanted += [f"SHORTLIST_{model}__{name}" for name in space.settings]
    for name in sorted(os.environ):
        if name.upper() in [one.upper() for one in wanted]:
            raise SettingError(f"{name}: is what is searched; take it out of the environment")


def parser(settings: TrainingSettings) -> argparse.ArgumentParser:
    """Gives the command line."""
    made = argparse.ArgumentParser(prog="python -m training.tuning", description=__doc__)
    made.add_argument("--trainer", type=Path, required=True, help="the Python of the role training")
    made.add_argument("--trials", type=trials, default=TRIALS, help=f"default: {TRIALS}")
    made.add_argument("--hours", type=hours, help="after which it ends with what it has")
    made.add_argument("--model", help=f"of the space's file (default: {settings.retrieval})")
    made.add_argument("--space", type=Path, default=SPACE, help=f"default: {SPACE.relative_to(ROOT)}")
    made.add_argument("--at-once", type=trials, default=1, help="trials at a time (default: 1)")
    return made


def trials(text: str) -> int:
    """Reads a number of trials."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"TRIALS={text}: must be 1 or more")
    return int(text)


def hours(text: str) -> float:
    """Reads a number of hours."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 10_000:
        raise argparse.ArgumentTypeError(f"HOURS={text}: must be a number above 0")
    return value


def say(line: str) -> None:
    """Writes a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())

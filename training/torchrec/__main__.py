"""`python -m training.torchrec fit FOLDER`: trains what a folder holds; alone, in workers under Ray Train, or
started by torchrun. `rows FOLDER`: lets rows of users go on learning."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask, TrainerError
from training.retrieval.torchrec import CONFIG_FILE
from training.torchrec.quiet import quieten


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m training.torchrec", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    fit = commands.add_parser("fit", help="train the towers of a folder, write them into it as ONNX")
    fit.add_argument("folder", type=Path)
    fit.add_argument("--workers", type=int, default=0, help="under Ray Train (default: this process alone)")
    rows = commands.add_parser("rows", help="let users' rows of a folder go on learning")
    rows.add_argument("folder", type=Path)
    for command, run in ((fit, run_fit), (rows, run_rows)):
        command.set_defaults(run=run)
    chosen = parser.parse_args(arguments)
    return int(chosen.run(chosen))


def run_fit(chosen: argparse.Namespace) -> int:
    """Trains towers; 0, or 1."""
    folder: Path = chosen.folder
    warnings.filterwarnings("ignore")  # what the libraries say of themselves as they load
    from training.torchrec.fit import FAULTS, fit_folder
    from training.torchrec.ranks import process_group

    quieten()
    if chosen.workers:
        from training.torchrec.under_ray import fit_under_ray

        try:
            fit_under_ray(folder, chosen.workers, read_task(folder)[1].ray_address)
        except TrainerError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        return 0
    with process_group() as ranks:
        try:
            fit_folder(*read_task(folder), ranks, folder)
        except FAULTS as error:
            ranks.say_once(str(error))
            return 1
    return 0


def read_task(folder: Path) -> tuple[FittingTask, TorchrecConfig]:
    """Reads what a folder holds, and how it is to be trained.

    Raises:
        TrainerError: it holds no task.
    """
    try:
        config = TorchrecConfig.model_validate_json((folder / CONFIG_FILE).read_text())
        return FittingTask.load(folder), config
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TrainerError(
            f"{folder}: holds no task ({Path(error.filename).name} is not there); name a folder that `make "
            "train TRAINER=torchrec` has begun, below var/torchrec"
        ) from None


def run_rows(chosen: argparse.Namespace) -> int:
    """Trains rows; 0, or 1."""
    warnings.filterwarnings("ignore")  # as above
    from training.torchrec.rows import RowsError, fit_rows_folder

    quieten()
    folder: Path = chosen.folder
    try:
        fit_rows_folder(folder, TorchrecConfig.model_validate_json((folder / CONFIG_FILE).read_text()))
    except RowsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m training.torchrec fit FOLDER`: trains what a folder holds, alone or started by torchrun."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask
from training.retrieval.torchrec import CONFIG_FILE


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m training.torchrec", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    fit = commands.add_parser("fit", help="train the towers of a folder, write them into it as ONNX")
    fit.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    warnings.filterwarnings("ignore")  # what the libraries say of themselves as they load
    from training.torchrec.fit import FAULTS, fit_folder
    from training.torchrec.ranks import process_group

    for name in ("torchrec", "torch.fx", "torch.onnx", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
    task = FittingTask.load(folder)
    config = TorchrecConfig.model_validate_json((folder / CONFIG_FILE).read_text())
    with process_group() as ranks:
        try:
            fit_folder(task, config, ranks, folder)
        except FAULTS as error:
            if ranks.is_first:
                sys.stderr.write(f"{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

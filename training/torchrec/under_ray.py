"""Trains in workers under Ray Train: where one dies, all begin again from the last checkpoint."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from contract.ray import ALONE, LOOPBACK, QUIET
from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask, TrainerError
from training.retrieval.torchrec import CONFIG_FILE
from training.torchrec.quiet import quieten

ENVIRONMENT = QUIET | {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Seconds until a dead worker is seen; else two.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
OWN = ALONE | {"GLOO_SOCKET_IFNAME": "lo"}
"""For a Ray of the training's own, on this machine alone."""
STORE_MB = 100
"""Of Ray's object store, through which nothing of the training goes."""
RESTARTS = 3
"""How often the workers begin again before the training fails."""
CONNECT_S = 5.0
LOG_FILE = "train.log"
"""What the first worker says, which is shown as it comes."""
SHOWN_S = 0.5
FAULT_FILE = "fault.txt"
"""What a person must mend; to begin again would not help."""


def fit_under_ray(folder: Path, workers: int, address: str = "") -> None:
    """Trains what a folder holds in so many workers: of a Ray of its own, on loopback, or of a cluster, which
    must see the folder under the same path.

    Raises:
        TrainerError: Ray does not start, workers died again and again, or there is something to mend.
    """
    if address:
        _check_reachable(address)
    fault, log = folder / FAULT_FILE, folder / LOG_FILE
    fault.unlink(missing_ok=True)
    log.write_text("")
    for name, value in (ENVIRONMENT if address else ENVIRONMENT | OWN).items():
        os.environ.setdefault(name, value)
    import ray
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    logging.getLogger("ray").setLevel(logging.ERROR)
    scratch = tempfile.mkdtemp(prefix="train-ray-")
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **_how(workers, address, scratch))
        is_gpu = ray.cluster_resources().get("GPU", 0) >= workers
        trainer = TorchTrainer(
            _work,
            train_loop_config={"folder": str(folder.resolve())},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if is_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=is_gpu),
            run_config=RunConfig(
                storage_path=str(folder.resolve() / "ray"),
                failure_config=FailureConfig(max_failures=RESTARTS),
            ),
        )
        with _shown(log):
            trainer.fit()
    except (TrainingFailedError, RayError, OSError, RuntimeError, ValueError) as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise TrainerError(f"under Ray: {said[-1]}") from error
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
    if fault.exists():
        raise TrainerError(fault.read_text())


def _how(workers: int, address: str, scratch: str) -> dict[str, Any]:
    if address:
        return {"address": address}
    return {
        "address": "local",  # whatever RAY_ADDRESS says
        "num_cpus": workers,
        "object_store_memory": STORE_MB * 2**20,
        "include_dashboard": False,
        "_node_ip_address": LOOPBACK,
        "_temp_dir": scratch,
    }


def _work(settings: dict[str, str]) -> None:
    """Is one worker, in the process group that Ray has begun."""
    from training.torchrec.fit import FAULTS, fit_folder
    from training.torchrec.ranks import Ranks

    quieten()
    folder, ranks = Path(settings["folder"]), Ranks.current()
    task = FittingTask.load(folder)
    config = TorchrecConfig.model_validate_json((folder / CONFIG_FILE).read_text())
    try:
        with (folder / LOG_FILE).open("a", buffering=1) as log, redirect_stderr(log):
            fit_folder(task, config, ranks, folder)
    except FAULTS as error:
        if ranks.is_first:
            (folder / FAULT_FILE).write_text(str(error))


@contextmanager
def _shown(log: Path) -> Iterator[None]:
    """Shows the lines of a file as they are written."""
    is_over = threading.Event()

    def follow() -> None:
        with log.open() as lines:
            while True:
                is_last = is_over.wait(SHOWN_S)
                sys.stderr.write(lines.read())
                if is_last:
                    return

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield
    finally:
        is_over.set()
        follower.join()


def _check_reachable(address: str) -> None:
    """Looks whether a cluster may be there: Ray itself would go on trying for minutes.

    Raises:
        TrainerError: nothing listens there, or it is no address.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError, ValueError) as error:
        raise TrainerError(
            f"SHORTLIST_TORCHREC__RAY_ADDRESS={address}: {error}; start the cluster, or leave the address out"
        ) from None

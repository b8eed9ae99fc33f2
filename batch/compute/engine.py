"""Ray Data, as the job uses it: shards go in, and a row comes out for each that is done."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch.compute.worker import ShardTask, ShardWorker
from batch.errors import BatchError
from batch.settings import BatchSettings
from contract.names import USER_ID
from contract.ray import ALONE, LOOPBACK, QUIET, silent

CONNECT_S = 5.0
FOLDER = "batch-ray-"
QUEUED = 2
"""Shards handed to a worker at a time: the next one is there when one is done."""


@contextmanager
def connected(settings: BatchSettings) -> Iterator[int]:
    """Starts Ray on this machine, on loopback, or connects to a cluster; gives the number of workers.

    Raises:
        BatchError: the cluster does not answer, or Ray does not start.
    """
    if settings.address:
        _check_reachable(settings.address)
    for name, value in (QUIET if settings.address else QUIET | ALONE).items():
        os.environ.setdefault(name, value)
    import ray
    from ray.exceptions import RayError

    folder = None
    try:
        if settings.address:
            how: dict[str, Any] = {"address": settings.address}
            remedy = (
                f"start a cluster of Ray {ray.__version__} with Python 3.11 that this machine is part of, or "
                f"leave the address out"
            )
        else:
            _clear_left_folders()
            folder = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-")
            how = _own(settings, folder)
            remedy = "Ray needs a short TMPDIR with room for its logs, and memory for its object store"
        try:
            with silent():
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **how)
        except (RayError, OSError, RuntimeError, ValueError, ImportError) as error:
            where = f"SHORTLIST_BATCH_ADDRESS={settings.address}" if settings.address else "Ray did not start"
            raise BatchError(f"{where}: {_line(error)}; {remedy}") from None
        if threading.current_thread() is threading.main_thread():
            # Ray takes SIGTERM for a crash, and is gone at once: neither the lock nor its processes would be.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield settings.workers or max(1, int(ray.cluster_resources().get("CPU", 2)) - 1)
    except (KeyboardInterrupt, SystemExit):
        folder = None  # Ray may end the process when it is shut down at work, so that comes last: at its exit
        raise
    except BaseException:
        ray.shutdown()
        raise
    else:
        ray.shutdown()
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _own(settings: BatchSettings, folder: str) -> dict[str, Any]:
    """Says how Ray is started for this run alone."""
    workers = settings.workers or len(os.sched_getaffinity(0))
    return {
        "address": "local",  # whatever RAY_ADDRESS says
        "num_cpus": workers + 1,  # one for who reads: workers that claim them all would wait for ever
        "object_store_memory": settings.object_store_mb * 2**20,
        "include_dashboard": False,
        "_node_ip_address": LOOPBACK,
        "_temp_dir": folder,
    }


def compute(shards: Sequence[Path], task: ShardTask, workers: int) -> Generator[dict[str, Any], None, None]:
    """Computes shards of users on so many workers; gives what became of each, as they are done.

    Raises:
        BatchError: a worker failed in a way that it could not tell.
    """
    import ray
    from ray.exceptions import RayError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns of what is so on purpose
    users = ray.data.read_parquet(
        [str(path) for path in shards],
        columns=[USER_ID],
        include_paths=True,
        override_num_blocks=len(shards),
    )
    done = users.map_batches(
        ShardWorker,
        fn_constructor_args=(task,),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(
            size=min(workers, len(shards)), max_tasks_in_flight_per_actor=QUEUED
        ),
    )
    try:
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()
    except RayError as error:
        raise BatchError(
            f"a worker failed: {_line(error)}; run it again: it goes on where it stopped"
        ) from error


def _clear_left_folders() -> None:
    """Deletes what runs left that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        if not Path(f"/proc/{folder.name.removeprefix(FOLDER).partition('-')[0]}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _check_reachable(address: str) -> None:
    """Looks whether a cluster may be there: Ray itself would go on trying for minutes.

    Raises:
        BatchError: nothing listens there, or something else does, such as Redis; or it is no address.
    """
    import grpc

    setting, place = f"SHORTLIST_BATCH_ADDRESS={address}", address.rpartition("://")[2]
    host, _, port = place.rpartition(":")
    if address == "auto":
        return
    if not port.isdigit():
        raise BatchError(f"{setting}: must be host:port, or ray://host:port")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            with grpc.insecure_channel(place, [("grpc.enable_http_proxy", 0)]) as channel:
                grpc.channel_ready_future(channel).result(CONNECT_S)
    except grpc.FutureTimeoutError:
        raise BatchError(f"{setting}: what answers there is not Ray; look up the cluster's port") from None
    except (OSError, OverflowError, ValueError) as error:
        raise BatchError(f"{setting}: {error}; start the cluster, or leave the address out") from None


def _line(error: BaseException) -> str:
    """Gives the last line of what an error says: the first ones are where it happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

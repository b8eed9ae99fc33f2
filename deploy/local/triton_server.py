"""Becomes the Triton server that the `nvidia-pytriton` wheel of the triton environment holds.

The wheel keeps the Python backend and its per-version stubs apart; Triton wants them in one folder.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from deploy.local.settings import LOOPBACK, LocalSettings, load_settings, python_of

PYTHON_VERSION = "3.11"
STUB = "triton_python_backend_stub"
SHARED_MEMORY = Path("/dev/shm")
HTTP_THREADS = "32"
"""A model that is being loaded holds one for as long, and whoever shares it waits."""


def packages() -> Path:
    """The triton environment's site-packages."""
    return python_of("triton").parents[1] / "lib" / f"python{PYTHON_VERSION}" / "site-packages"


def prepare_backends(folder: Path) -> Path:
    """Copies the backends and the stub of our Python version into `folder`, whole or not at all."""
    wheel = packages() / "pytriton" / "tritonserver"
    version = next(packages().glob("nvidia_pytriton-*.dist-info")).name.removesuffix(".dist-info")
    target = folder / version
    if not target.is_dir():
        building = folder / f".{version}.{os.getpid()}"
        shutil.rmtree(building, ignore_errors=True)
        shutil.copytree(wheel / "backends", building)
        stub = building / "python" / STUB
        shutil.copyfile(wheel / "python_backend_stubs" / PYTHON_VERSION / STUB, stub)
        stub.chmod(0o755)
        try:
            building.rename(target)
        except OSError:  # another start was faster
            shutil.rmtree(building)
    return target


def shared_memory_prefix(settings: LocalSettings) -> str:
    """Names this server's shared memory, so that two servers on one machine never meet in it."""
    return f"shortlist_{settings.triton_grpc_port}_"


def clear_shared_memory(prefix: str) -> None:
    """Removes what a killed server with our prefix left in shared memory; nothing else holds that prefix."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def end_orphans(prefix: str) -> None:
    """Ends the Python processes that a killed server with our prefix left; they may wait for it for ever."""
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if STUB in "".join(arguments[:1]) and any(part.startswith(prefix) for part in arguments):
            with suppress(psutil.Error):
                process.kill()


def command(settings: LocalSettings, backends: Path) -> list[str]:
    """Tritonserver and its arguments; every address is loopback, as this version is not patched any more."""
    options = {
        "model-repository": str(settings.var / "models"),
        "model-control-mode": "explicit",
        "backend-directory": str(backends),
        "backend-config": f"python,shm-region-prefix-name={shared_memory_prefix(settings)}",
        "http-address": LOOPBACK,
        "http-port": str(settings.triton_http_port),
        "http-thread-count": HTTP_THREADS,
        "grpc-address": LOOPBACK,
        "grpc-port": str(settings.triton_grpc_port),
        "metrics-address": LOOPBACK,
        "metrics-port": str(settings.triton_metrics_port),
        "allow-gpu-metrics": "false",
        "exit-timeout-secs": "5",
    }
    server = packages() / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    return [str(server), *(f"--{name}={value}" for name, value in options.items())]


def environment(given: dict[str, str]) -> dict[str, str]:
    """The given variables, plus those by which Triton's Python process finds its environment.

    It takes the first `python3` on PATH for its home, and loads libpython of the interpreter that made it.
    """
    home = Path(os.path.realpath(python_of("triton"))).parents[1]
    libraries = [packages() / "nvidia_pytriton.libs"]
    if home != Path("/usr"):
        libraries.insert(0, home / "lib")
    return given | {
        "PATH": f"{python_of('triton').parent}{os.pathsep}{given.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "OMP_NUM_THREADS": given.get("OMP_NUM_THREADS", "1"),
    }


def main() -> None:
    """Prepares the backends, then becomes tritonserver, so that the supervisor watches the server itself."""
    settings = load_settings()
    backends = prepare_backends(settings.var / "triton" / "backends")
    end_orphans(shared_memory_prefix(settings))
    clear_shared_memory(shared_memory_prefix(settings))
    arguments = command(settings, backends)
    sys.stdout.flush()
    os.execve(arguments[0], arguments, environment(dict(os.environ)))


if __name__ == "__main__":
    main()

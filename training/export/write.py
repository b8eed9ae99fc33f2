"""Writes a bundle: whole or not at all, never changed after; links beside the bundles point to one.

A bundle is one folder: models, encoders, item vectors, item table, popular slate, metrics, `dataset.yaml`,
dataset card, and `manifest.json`, which holds the checksum of every other file and is written last.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from contract.bundle import MANIFEST_FILE, BundleError, Manifest, read_manifest, sha256
from contract.whole_file import whole_file

_WIDTHS = ("avx", "avx2", "avx512f", "avx512_bf16")
_LIBRARIES = (
    "numpy",
    "pandas",
    "nvtabular",
    "merlin-models",
    "tensorflow-cpu",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "feast",
)


def bundle_id(dataset: str, fingerprint: str, at: datetime) -> str:
    """Names a bundle after its data set, its time, and what it was made from."""
    return f"{dataset}-{at:%Y%m%d-%H%M%S}-{fingerprint[:8]}"


@contextmanager
def staged(bundles: Path, name: str) -> Iterator[Path]:
    """Gives a hidden folder to write into; it becomes `bundles/name` if it was sealed, else nothing remains.

    Raises:
        BundleError: there is a bundle of that name, or the folder was left without a manifest.
    """
    target, folder = bundles / name, bundles / f".{name}.{os.getpid()}.tmp"
    if target.exists():
        raise BundleError(f"{target}: exists; a bundle is never changed, train under another name")
    folder.mkdir(parents=True)
    try:
        yield folder
        if not (folder / MANIFEST_FILE).is_file():
            raise BundleError(f"{target}: was not sealed with a manifest; nothing is kept")
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path, facts: Mapping[str, Any]) -> Manifest:
    """Writes the manifest from `facts` and the checksums of all files; the folder is complete then."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    manifest = Manifest.model_validate(
        dict(facts) | {"checksums": {path.name: sha256(path) for path in files}}
    )
    write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))
    return manifest


def point(bundles: Path, name: str, link: str) -> None:
    """Points a link, such as `bundles/current`, to a bundle, in one step: readers find the old or the new.

    Raises:
        BundleError: the bundle is incomplete or changed; the link stays as it is.
    """
    read_manifest(bundles / name)
    temporary = bundles / f".{link}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    temporary.replace(bundles / link)


def linked(bundles: Path, link: str) -> str | None:
    """Names the bundle that a link points to; None where there is no link."""
    path = bundles / link
    return path.readlink().name if path.is_symlink() else None


def find_bundle(bundles: Path, dataset: str, fingerprint: str) -> str | None:
    """Finds the newest whole bundle made from the same data, settings and code; None where there is none."""
    for folder in sorted(bundles.glob(f"{dataset}-*-{fingerprint[:8]}"), reverse=True):
        try:
            return read_manifest(folder).bundle
        except BundleError:
            continue
    return None


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON, whole or not at all."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as file:
        file.write(f"{text}\n".encode())


def versions() -> dict[str, str]:
    """The versions of what trained the bundle."""
    return {"python": sys.version.split()[0]} | {name: version(name) for name in _LIBRARIES}


def machine(threads: int) -> dict[str, str]:
    """Says what computed: the processor, the kernels and threads of each BLAS, the threads of TensorFlow."""
    facts = {"processor": _processor(), "tensorflow_threads": str(threads)}
    for library in threadpool_info():
        if library["user_api"] == "blas":
            name = f"{library['internal_api']}_{library['version']}"
            facts[name] = f"{library['architecture']} kernels, {library['num_threads']} threads"
    return facts


def _processor() -> str:
    """Names the processor, and whether it has AVX512, as Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    widest = [flag for flag in _WIDTHS if flag in flags][-1:]
    return " ".join([fields.get("model name", platform.machine()), *widest])


def git_commit() -> str:
    """The commit of this code, with `+changes` where files differ from it; `unknown` outside a checkout."""
    here = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", "../contract")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def now() -> datetime:
    """The present, UTC."""
    return datetime.now(UTC)

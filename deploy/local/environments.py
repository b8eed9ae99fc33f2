"""Builds one Python environment per role from its hash-pinned lock, again and again without harm.

Runs before anything is installed: standard library only. An environment whose lock is unchanged costs a hash;
a changed lock is synchronised in place; an interrupted build leaves no stamp and is begun again. The role
`torch` is built when a command first needs it: the demo does not.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv"
LOCKS = ROOT / "requirements"
ROLES = {
    "gateway": ("gateway.txt", "gateway-test.txt"),
    "dev": ("dev.txt",),
    "triton": ("triton.txt", "triton-test.txt"),
    "batch": ("batch.txt", "batch-test.txt"),
    "training": ("training.txt", "training-test.txt"),
    "torch": ("torch.txt", "torch-test.txt"),
}
TORCH = "torch"
TORCH_CPU, TORCH_CUDA = "torch-cpu.txt", "torch-cuda.txt"
STUBS = ROOT / "deploy" / "local" / "stubs"
INSTALLER = "uv"
DEBIAN_PYTHON = "/usr/bin/python3.11"
STAMP = ".shortlist-stamp"
PLATFORM = "x86_64-manylinux_2_36"

NEEDED = {"libgomp1": "LightGBM and scikit-learn need it"}
NEEDED_BY_DEBIAN_PYTHON = {
    "python3.11-venv": "it makes the environments",
    "libpython3.11": "Triton's Python backend loads it",
}
WANTED = {
    "chromium": "the page's test needs it",
    "chromium-driver": "the page's test needs it",
    "docker-compose": "the test of docker-compose.yml needs it",
}


class SetupError(Exception):
    """Says in one line why the environments cannot be built, and what to do."""


def say(line: str) -> None:
    """Prints a line at once, so that it stands before what a child process prints."""
    print(line, flush=True)


def is_installed(package: str) -> bool:
    """Says whether dpkg knows the package as installed."""
    query = ["dpkg-query", "--show", "--showformat=${Status}", package]
    return subprocess.run(query, capture_output=True, text=True).stdout == "install ok installed"


def check_debian_packages(python: str) -> None:
    """Looks for the Debian packages; prints the one line that installs what is missing.

    Raises:
        SetupError: one that every command needs is missing. One that only the tests need is a warning.
    """
    if not shutil.which("dpkg-query"):
        say(
            "setup    not a Debian system: install the equivalents of "
            + " ".join(NEEDED | WANTED)
            + " yourself"
        )
        return
    needed = NEEDED | (NEEDED_BY_DEBIAN_PYTHON if python == DEBIAN_PYTHON else {})
    missing = {name: why for name, why in (needed | WANTED).items() if not is_installed(name)}
    if not missing:
        return
    for name, why in missing.items():
        say(
            f"setup    Debian package {name} is missing: {why}"
            + ("" if name in needed else " (only for the tests)")
        )
    line = f"apt-get install --yes {' '.join(missing)}"
    if set(missing) & set(needed):
        raise SetupError(f"install what is missing, then run the same command again:\n    sudo {line}")
    say(f"setup    going on without; for the whole test run: sudo {line}")


def told_by(role: str) -> tuple[str, ...]:
    """Names the locks that a role's environment follows from."""
    return (*ROLES[role], TORCH_CPU, TORCH_CUDA) if role == TORCH else ROLES[role]


def stamp_of(locks: tuple[str, ...], python: str) -> str:
    """Tells what an environment follows from: its interpreter, where it stands, and the hash of its locks."""
    digest = hashlib.sha256(b"".join((LOCKS / lock).read_bytes() for lock in locks))
    return f"{shutil.which(python)}\n{ROOT}\n{digest.hexdigest()}\n"


def environment_variables() -> dict[str, str]:
    """Gives the installer's variables: links to its cache where the file system allows it, else copies."""
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
    cache.mkdir(parents=True, exist_ok=True)
    mode = "hardlink" if cache.stat().st_dev == ENVIRONMENTS.stat().st_dev else "copy"
    return {"UV_LINK_MODE": mode, **os.environ, "UV_NO_PROGRESS": "" if sys.stderr.isatty() else "1"}


def run(command: list[str], folder: Path = ROOT) -> None:
    """Runs a step with its output shown.

    Raises:
        SetupError: it failed; its own last lines say why.
    """
    if subprocess.run(command, cwd=folder, env=environment_variables()).returncode:
        raise SetupError(
            f"failed: {' '.join(command)}\n    its reason stands above; run the same command again"
        )


def build_installer(python: str) -> Path:
    """Installs the installer itself, hash-checked, with the pip of the interpreter's own venv."""
    folder, locks = ENVIRONMENTS / INSTALLER, ("setup.txt",)
    expected = stamp_of(locks, python)
    if not is_current(folder, expected):
        say("setup    installer: uv")
        run([python, "-m", "venv", "--clear", str(folder)])
        run([*pip_command("install"), "--requirement", str(LOCKS / "setup.txt")])
        (folder / STAMP).write_text(expected)
    return folder / "bin" / "uv"


def pip_command(verb: str) -> list[str]:
    """Gives the start of a command of the pip that installed the installer: wheels only, hash-checked."""
    pip = [str(ENVIRONMENTS / INSTALLER / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    return [*pip, verb, "--quiet", "--require-hashes", "--only-binary=:all:"]


def is_current(folder: Path, expected: str) -> bool:
    """Says whether the environment was finished from exactly these locks."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text() == expected and (folder / "bin" / "python").exists()


def build(uv: Path, role: str, python: str) -> None:
    """Brings one role's environment to exactly its locks, and puts the checkout on its path.

    The path file needs no build step, so the gateway's environment holds no build tools.
    """
    folder, locks = ENVIRONMENTS / role, ROLES[role]
    expected, stamp = stamp_of(told_by(role), python), folder / STAMP
    if is_current(folder, expected):
        say(f"setup    {role}: unchanged")
        return
    started = time.monotonic()
    say(f"setup    {role}: installing from requirements/{locks[0]}")
    before = stamp.read_text() if stamp.is_file() else ""
    if before.splitlines()[:2] != expected.splitlines()[:2]:
        run([str(uv), "venv", "--quiet", "--clear", "--python", python, str(folder)])
    stamp.unlink(missing_ok=True)
    sync = [str(uv), "pip", "sync", "--require-hashes", "--python", str(folder / "bin" / "python")]
    with tempfile.TemporaryDirectory(dir=ENVIRONMENTS) as wheels:
        if role == TORCH:
            locks += (fetch_torch(wheels),)
            sync += ["--find-links", wheels]
        run([*sync, *(str(LOCKS / lock) for lock in locks)])
    paths = [ROOT, STUBS] if role == TORCH else [ROOT]
    (folder / "lib" / "python3.11" / "site-packages" / "shortlist.pth").write_text(
        "".join(f"{path}\n" for path in paths)
    )
    stamp.write_text(expected)
    say(f"setup    {role}: ready after {time.monotonic() - started:.0f} s")


def fetch_torch(wheels: str) -> str:
    """Fetches torch's CPU build, where pip's own settings lead to one; names the lock of what there is."""
    fetch = [*pip_command("download"), "--no-deps", "--dest", wheels, "--requirement", str(LOCKS / TORCH_CPU)]
    if subprocess.run(fetch, cwd=ROOT, capture_output=True).returncode == 0:
        return TORCH_CPU
    say("setup    torch: pip finds no CPU build, so PyPI's is taken, which is CUDA's: about 3 GB to fetch")
    return TORCH_CUDA


def tests_of(role: str) -> str:
    """Names what a role's tests need: a file of its own where it has one, else what all tests need."""
    own = f"{role}-test.in"
    return own if (LOCKS / own).is_file() else "test.in"


def compile_locks(uv: Path) -> None:
    """Recompiles every lock from its `.in` file, with hashes and without naming any package index."""
    command = [str(uv), "pip", "compile", "--quiet", "--upgrade", "--generate-hashes", "--no-emit-index-url"]
    command += ["--no-emit-find-links", "--python-version", "3.11", "--python-platform", PLATFORM]
    command += ["--prerelease", "if-necessary-or-explicit", "--custom-compile-command", "make lock"]
    for name in ("setup", "dev", "gateway", "triton", "training"):
        say(f"lock     requirements/{name}.txt")
        run([*command, "-o", f"{name}.txt", f"{name}.in"], LOCKS)
    say("lock     requirements/batch.txt")
    run([*command, "--constraint", "triton.txt", "-o", "batch.txt", "batch.in"], LOCKS)
    compile_torch(command)
    for role in ("gateway", "triton", "batch", "training", "torch"):
        say(f"lock     requirements/{role}-test.txt")
        run([*command, "--constraint", f"{role}.txt", "-o", f"{role}-test.txt", tests_of(role)], LOCKS)
    say("lock     requirements/triton-gpu.txt")
    run([*command, "--constraint", "triton.txt", "-o", "triton-gpu.txt", "triton-gpu.in"], LOCKS)


def compile_torch(command: list[str]) -> None:
    """Recompiles the locks of the role torch, but for `torch-cpu.txt`, which no index tells."""
    say("lock     requirements/torch.txt")
    without = ["--override", "torch-overrides.in", "--no-emit-package", "torch"]
    run([*command, *without, "-o", "torch.txt", "torch.in"], LOCKS)
    say(f"lock     requirements/{TORCH_CUDA}")
    run([*command, "--constraint", "torch.txt", "-o", TORCH_CUDA, "torch-cuda.in"], LOCKS)


def main() -> int:
    """Checks the machine, then builds the environments of the roles asked for, by default the demo's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roles", nargs="*", help=f"of {', '.join(ROLES)}; default: all but torch")
    parser.add_argument("--python", default=DEBIAN_PYTHON, help=f"interpreter (default: {DEBIAN_PYTHON})")
    parser.add_argument("--lock", action="store_true", help="recompile the locks instead")
    parser.add_argument(
        "--quiet-if-current", action="store_true", help="say nothing where nothing is to be done"
    )
    arguments = parser.parse_args()
    python, roles = arguments.python, arguments.roles or [role for role in ROLES if role != TORCH]
    if unknown := set(roles) - set(ROLES):
        parser.error(f"no such role: {', '.join(unknown)}")
    if arguments.quiet_if_current and not arguments.lock:
        wanted = [(ENVIRONMENTS / role, told_by(role)) for role in roles]
        if all(is_current(folder, stamp_of(locks, python)) for folder, locks in wanted):
            return 0
    try:
        if sys.version_info[:2] != (3, 11):
            raise SetupError(
                f"{python} is Python {sys.version.split()[0]}; the locks are for 3.11: set PYTHON="
            )
        check_debian_packages(python)
        ENVIRONMENTS.mkdir(exist_ok=True)
        with (ENVIRONMENTS / ".setup-lock").open("w") as one_at_a_time:
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            uv = build_installer(python)
            if arguments.lock:
                compile_locks(uv)
                return 0
            for role in roles:
                build(uv, role, python)
    except SetupError as error:
        print(f"setup    {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup    interrupted; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

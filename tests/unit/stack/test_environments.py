"""Environments are built once per lock, and again after an interruption."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from deploy.local import environments
from deploy.local.settings import PREFIX, ROOT, LocalSettings


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A checkout with one lock, whose installer only notes its commands and makes what they would make."""
    commands: list[list[str]] = []
    locks = tmp_path / "requirements"
    locks.mkdir()
    (locks / "gateway.txt").write_text("fastapi==1\n")

    def run(command: list[str], folder: Path = tmp_path) -> None:
        assert folder.is_dir()
        commands.append(command)
        site = tmp_path / ".venv" / "gateway" / "lib" / "python3.11" / "site-packages"
        site.mkdir(parents=True, exist_ok=True)
        interpreter = tmp_path / ".venv" / "gateway" / "bin" / "python"
        interpreter.parent.mkdir(exist_ok=True)
        interpreter.touch()

    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "LOCKS", locks)
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / ".venv")
    monkeypatch.setattr(environments, "ROLES", {"gateway": ("gateway.txt",)})
    monkeypatch.setattr(environments, "run", run)
    return commands


def verbs(commands: list[list[str]]) -> list[str]:
    return [next(word for word in command if word in ("venv", "sync")) for command in commands]


def build(python: str = "/usr/bin/python3.11") -> None:
    environments.build(Path("uv"), "gateway", python)


def test_an_unchanged_lock_costs_no_command(checkout: list[list[str]], tmp_path: Path) -> None:
    build()
    assert verbs(checkout) == ["venv", "sync"]
    assert "--require-hashes" in checkout[1]
    path_file = tmp_path / ".venv/gateway/lib/python3.11/site-packages/shortlist.pth"
    assert path_file.read_text() == f"{tmp_path}\n"
    checkout.clear()
    build()
    assert checkout == []


def test_a_changed_lock_is_synchronised_in_place(checkout: list[list[str]], tmp_path: Path) -> None:
    build()
    checkout.clear()
    (tmp_path / "requirements" / "gateway.txt").write_text("fastapi==2\n")
    build()
    assert verbs(checkout) == ["sync"]


def test_another_interpreter_begins_anew(checkout: list[list[str]]) -> None:
    build()
    checkout.clear()
    build("/bin/sh")
    assert verbs(checkout) == ["venv", "sync"]


def test_an_interrupted_build_is_begun_again(
    checkout: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    working = environments.run

    def interrupted(command: list[str], folder: Path = Path()) -> None:
        if "sync" in command:
            raise KeyboardInterrupt
        working(command, folder)

    monkeypatch.setattr(environments, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build()
    monkeypatch.setattr(environments, "run", working)
    checkout.clear()
    build()
    assert verbs(checkout) == ["venv", "sync"]


@pytest.mark.parametrize(("found", "lock"), [(0, "torch-cpu.txt"), (1, "torch-cuda.txt")])
def test_the_role_torch_takes_the_cpu_build_where_pip_finds_one(
    checkout: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: int, lock: str
) -> None:
    for name in ("torch-cpu.txt", "torch-cuda.txt"):
        (tmp_path / "requirements" / name).write_text("torch==1\n")
    site = tmp_path / ".venv" / "torch" / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    monkeypatch.setattr(environments, "ROLES", {"torch": ("gateway.txt",)})
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, found))
    environments.build(Path("uv"), "torch", "/usr/bin/python3.11")
    assert [Path(word).name for word in checkout[-1] if word.endswith(".txt")] == ["gateway.txt", lock]
    assert len((site / "shortlist.pth").read_text().splitlines()) == 2


def test_missing_packages_are_one_line_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"libpython3.11", "chromium"}
    monkeypatch.setattr(environments, "is_installed", lambda name: name not in missing)
    with pytest.raises(environments.SetupError, match=r"apt-get install --yes libpython3\.11 chromium"):
        environments.check_debian_packages("/usr/bin/python3.11")
    # Of another interpreter the library is its own matter, and the browser is only for the tests.
    environments.check_debian_packages("/opt/python3.11")
    assert "sudo apt-get install --yes chromium\n" in capsys.readouterr().out


def test_every_variable_of_the_local_servers_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    named = set(re.findall(r"`(SHORTLIST_\w+)`", text))
    assert {f"{PREFIX}{name.upper()}" for name in LocalSettings.model_fields} <= named


def test_help_lists_every_command() -> None:
    makefile = (ROOT / "Makefile").read_text()
    listed = set(re.findall(r"^([a-z]+):.* ## \S", makefile, flags=re.MULTILINE))
    assert listed >= {
        *("setup", "demo", "up", "down", "data", "train", "promote", "rollback", "bundles"),
        *("export", "materialize"),
        *("test", "check", "fix", "bench", "load", "lock", "help"),
    }

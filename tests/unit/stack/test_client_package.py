"""The client is installed without the rest of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('wheels'))"


def test_its_wheel_holds_it_whole_and_needs_httpx_alone(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "shortlist", tmp_path / "client", ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=tmp_path / "client", capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "client" / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
    sources = {f"shortlist/{file.name}" for file in (ROOT / "shortlist").glob("*.py")}
    found = {str(file.relative_to(tmp_path / "site")) for file in (tmp_path / "site").rglob("*.*")}
    assert {name for name in found if "dist-info" not in name} == sources | {"shortlist/py.typed"}
    metadata = next((tmp_path / "site").glob("*.dist-info/METADATA")).read_text()
    assert [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")] == [
        "Requires-Dist: httpx<1,>=0.27"
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "shortlist", "recommend", "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "--user" in ran.stdout

"""The check of a GPU: what it says where there is none, and where one computes otherwise than the CPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import run


def listing(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Puts a driver's tool that does as `script` says first on the path."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_where_there_is_no_gpu_it_says_so_and_ends_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.main() == 0
    assert "no GPU here" in capsys.readouterr().out


def test_a_driver_that_does_not_answer_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listing(monkeypatch, tmp_path, "exit 9")
    assert run.gpus() == []


def test_gpus_are_told_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listing(monkeypatch, tmp_path, "echo NVIDIA H200; echo NVIDIA L4")
    assert run.gpus() == ["NVIDIA H200", "NVIDIA L4"]


@pytest.mark.parametrize(("difference", "status"), [(2e-5, 0), (2e-4, 1)])
def test_what_differs_from_the_cpu_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, difference: float, status: int
) -> None:
    asked: list[tuple[list[str], str | None]] = []

    def answer(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append((command[1:], options.get("env", {}).get("CUDA_VISIBLE_DEVICES")))
        result = {"greatest_difference": difference} if "bench.gpu.towers" in command else {}
        return subprocess.CompletedProcess(command, 0, f"talk\n{json.dumps(result)}\n", "")

    monkeypatch.setattr(run, "gpus", lambda: ["a GPU"])
    monkeypatch.setattr("subprocess.run", answer)
    monkeypatch.setenv("SHORTLIST_BUNDLE_DIR", str(tmp_path / "none"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert run.main() == status
    hidden = [given for command, given in asked if "bench.trainers.torchrec" in command]
    assert hidden == ["", None], "one trainer must not see the GPU"


def on_a_gpu_with_make(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Lets there be a GPU, and a `make` that does what a shell script says."""
    make = folder / "make"
    make.write_text(f"#!/bin/sh\n{script}\n")
    make.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(run, "gpus", lambda: ["a GPU"])


def test_the_clock_runs_while_the_role_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A make that takes longer than there is time is ended, and what it started as well."""
    on_a_gpu_with_make(monkeypatch, tmp_path, 'echo $$ > "$0.pid"\nsleep 60')
    monkeypatch.setattr(run, "LIMIT_S", 1.0)
    assert run.main() == 1
    assert "not ended within 1 s" in capsys.readouterr().out
    assert not Path("/proc", (tmp_path / "make.pid").read_text().strip()).exists()


def test_a_role_that_cannot_be_built_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_gpu_with_make(monkeypatch, tmp_path, "exit 2")
    assert run.main() == 1
    assert "failed: " in capsys.readouterr().out


def test_an_onnx_runtime_without_cuda_leaves_out_the_bundles_models(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    check = run.GpuCheck()
    result = check.part("triton", "bench.gpu.ranker", str(tmp_path / "no bundle is read"))
    said = capsys.readouterr().out.strip()
    assert check.is_equal
    assert "\n" not in said
    assert said.endswith(str(result["left_out"]))

"""`make gpu-check`: trains the TorchRec towers on a GPU and runs both models there, beside the CPU.

Each must give what the CPU gives, within 1e-4. It takes 8 minutes at most, building the role torch included;
where there is no GPU it says so and ends with 0, and where ONNX Runtime is not the GPU's it leaves out the
bundle's models. Speeds are printed, never asserted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.record import say
from deploy.local.settings import ROOT, load_settings, python_of

LIMIT_S = 480.0
TOLERANCE = 1e-4
TIMED_OUT = 124
"""What coreutils' `timeout` ends with where it had to end a command."""


def gpus() -> list[str]:
    """Gives the names of the GPUs that NVIDIA's driver lists."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


class GpuCheck:
    """Runs parts in their roles' processes, until the time is over."""

    def __init__(self) -> None:
        self.until_s, self.is_equal = time.monotonic() + LIMIT_S, True

    def left_s(self) -> float:
        """Says how many seconds are left, at least one."""
        return max(1.0, self.until_s - time.monotonic())

    def environment(self) -> None:
        """Builds the role torch, unless it is there.

        Raises:
            CalledProcessError: it cannot be built; the reason stands above.
            TimeoutExpired: the time is over. What was building ends as well.
        """
        command, left_s = ["make", "environment-torch"], self.left_s()
        done = subprocess.run(["timeout", f"{left_s:.0f}", *command], cwd=ROOT)
        if done.returncode == TIMED_OUT:
            raise subprocess.TimeoutExpired(command, left_s)
        done.check_returncode()

    def part(self, role: str, module: str, *arguments: str, device: str = "cuda") -> dict[str, object]:
        """Gives what a part told of itself: its last line, JSON. One that has nothing to run on says why:
        `left_out`.

        Raises:
            CalledProcessError: it failed; its reason stands above.
            TimeoutExpired: the time is over.
        """
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else dict[str, str]()
        done = subprocess.run(
            [str(python_of(role)), "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | hidden | {"NVIDIA_TF32_OVERRIDE": "0"},  # as exact as the CPU
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=self.left_s(),
        )
        result: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
        say(f"{module}, {device}: {result.get('left_out', result)}")
        self.is_equal &= float(str(result.get("greatest_difference", 0.0))) <= TOLERANCE
        return result


def main() -> int:
    """Runs all parts; 1 where one failed, or differs from the CPU."""
    names = gpus()
    if not names:
        say("no GPU here: nvidia-smi lists none; nothing was run")
        return 0
    say(f"GPU: {', '.join(names)}")
    check, bundle = GpuCheck(), load_settings().bundle
    with tempfile.TemporaryDirectory(prefix="shortlist-gpu-") as scratch:
        folder = Path(scratch) / "task"
        try:
            check.environment()
            check.part("training", "bench.trainers.task", str(folder), device="cpu")
            for device in ("cpu", "cuda"):
                check.part("torch", "bench.trainers.torchrec", str(folder), device=device)
            check.part("torch", "bench.gpu.towers", str(folder))
            if (bundle / "manifest.json").exists():
                check.part("triton", "bench.gpu.ranker", str(bundle.resolve()))
            else:
                say(f"{bundle}: no bundle, so the ranker was not run; make one: make train promote")
        except subprocess.CalledProcessError as error:
            say(f"failed: {error}")
            return 1
        except subprocess.TimeoutExpired:
            say(f"not ended within {LIMIT_S:.0f} s")
            return 1
    if not check.is_equal:
        say(f"the GPU differs from the CPU by more than {TOLERANCE:g}")
    return 0 if check.is_equal else 1


if __name__ == "__main__":
    sys.exit(main())

"""Stacks that were sampled in the chain's process: whose time each is, and how it divides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.servers import BenchError

ENTRY = "TritonPythonModel.execute"
ONNX, REDIS, STUB = "ONNX Runtime", "Redis", "Triton's Python backend"
PYTHON = "the chain's own Python"
PARTS = (ONNX, REDIS, PYTHON, STUB)
_REDIS_FRAMES = ("(redis/", "ensemble/stores/client.py", "hiredis")


@dataclass(frozen=True)
class Stack:
    """Frames from the outermost, and how often they were seen."""

    frames: tuple[str, ...]
    count: int

    def parts(self) -> Iterator[tuple[str, str]]:
        """Each frame with whose time it is: what Redis' client or ONNX Runtime calls is theirs as well."""
        part = STUB
        for frame in self.frames:
            if frame.startswith(ENTRY):
                part = PYTHON
            elif "onnxruntime" in frame:
                part = ONNX
            elif part == PYTHON and any(mark in frame for mark in _REDIS_FRAMES):
                part = REDIS
            yield frame, part

    @property
    def part(self) -> str:
        """Whose time it is: that of the innermost frame."""
        return [part for _, part in self.parts()][-1] if self.frames else STUB

    def inside(self) -> Stack | None:
        """The part of it from `execute` to the response; None where it is not in there."""
        for position, frame in enumerate(self.frames):
            if frame.startswith(ENTRY):
                return Stack(self.frames[position:], self.count)
        return None


def parsed(line: str) -> Stack:
    """Reads a line of py-spy's raw format: frames with semicolons between, a space, the count."""
    frames, _, count = line.rpartition(" ")
    return Stack(tuple(frame for frame in frames.split(";") if not frame.startswith("0x")), int(count))


def shares(stacks: Sequence[Stack]) -> dict[str, float]:
    """Gives each part's share of the samples."""
    counts: Counter[str] = Counter()
    for stack in stacks:
        counts[stack.part] += stack.count
    total = sum(counts.values()) or 1
    return {part: counts[part] / total for part in PARTS}


def inside(stacks: Sequence[Stack]) -> list[Stack]:
    """Keeps what lies between execute and response.

    Raises:
        BenchError: nothing does: the process did not work, or is another one.
    """
    cuts = [cut for stack in stacks if (cut := stack.inside())]
    if not cuts:
        raise BenchError(f"no sample lies in {ENTRY}")
    return cuts

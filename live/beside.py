"""What is done beside the streams, as it takes longer than events may wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Beside:
    """One thing after the other, in a thread of its own; what fails is said, and ends nothing."""

    def __init__(self, name: str, say: Callable[[str], object]) -> None:
        self._thread, self._say = ThreadPoolExecutor(1, thread_name_prefix=name), say

    def do(self, work: Callable[[], object], fault: str) -> None:
        """Does it once all that was asked before is done; `fault` begins what is said where it fails."""
        self._thread.submit(self._do, work, fault)

    def _do(self, work: Callable[[], object], fault: str) -> None:
        try:
            work()
        except Exception as error:  # nobody asks the thread what became of it
            self._say(f"{fault}: {type(error).__name__}: {error}")

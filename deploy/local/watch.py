"""A supervisord listener that replaces a Triton whose Python process died.

This Triton neither restarts a dead Python process nor reports it: it stays ready and fails every request.
"""

from __future__ import annotations

import os
import sys

import psutil
from supervisor import childutils

TRITON = "triton"
STUB = "triton_python_backend_stub"


def has_python(pid: int) -> bool:
    """Says whether the server has a living Python process."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return any(
            STUB in " ".join(child.cmdline()) for child in children if child.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.Error:
        return False


class Watch:
    """Remembers which server was seen with its Python process; one that is still loading has none."""

    def __init__(self) -> None:
        self._seen = 0

    def must_replace(self, pid: int) -> bool:
        """Says, once per look at the server `pid`, whether its Python process was there and is gone."""
        if has_python(pid):
            self._seen = pid
            return False
        return pid == self._seen


def main() -> None:
    """Looks after every tick. SIGKILL, as Triton waits for the dead process when asked to end."""
    supervisor = childutils.getRPCInterface(os.environ).supervisor
    watch = Watch()
    while True:
        childutils.listener.wait(sys.stdin, sys.stdout)
        for info in supervisor.getAllProcessInfo():
            if info["name"] == TRITON and info["statename"] == "RUNNING" and watch.must_replace(info["pid"]):
                print(
                    f"triton {info['pid']}: its Python process died; restarting", file=sys.stderr, flush=True
                )
                supervisor.signalProcess(TRITON, "KILL")
        childutils.listener.ok(sys.stdout)


if __name__ == "__main__":
    main()

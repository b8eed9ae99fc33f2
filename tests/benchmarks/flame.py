"""Samples the chain's process under load with py-spy: where its time goes, as shares and as a picture.

`make flame` does it with the running stack. Native frames are sampled too, so that ONNX Runtime shows. py-spy
needs the right to trace a process: root, or its owner where `kernel.yama.ptrace_scope` is 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from deploy.local.settings import LOOPBACK, load_settings
from tests.benchmarks.designs import GrpcCaller, our_messages
from tests.benchmarks.flame_svg import write_svg
from tests.benchmarks.processes import STUB_OF, of_ours
from tests.benchmarks.record import say
from tests.benchmarks.replies import seen_users
from tests.benchmarks.servers import BenchError
from tests.benchmarks.stacks import Stack, inside, parsed, shares

PICTURE = "chain.svg"
RATE = 100
SAMPLED_S = 10
PATIENCE_S = 60


def sampled(pid: int, load: Callable[[], object], *, seconds: int = SAMPLED_S) -> list[Stack]:
    """Samples a process while `load` runs, which must last a second longer than `seconds`.

    Waiting counts, so shares are of time.

    Raises:
        BenchError: py-spy cannot.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stacks.txt"
        options = ["--pid", str(pid), "--native", "--rate", str(RATE), "--duration", str(seconds)]
        options += ["--format", "raw", "--output", str(path), "--idle"]
        command = [str(Path(sys.executable).with_name("py-spy")), "record", *options]
        spy = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            load()
            told, _ = spy.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            spy.kill()
            raise BenchError("py-spy does not end") from None
        finally:
            spy.poll()
        if spy.returncode or not path.exists():
            raise BenchError(f"py-spy cannot sample process {pid}: {told.strip()[-200:]}")
        return [parsed(line) for line in path.read_text().splitlines() if line]


def main() -> int:
    """Samples the running stack, asked by 16 clients, and writes the picture."""
    settings = load_settings()
    users = seen_users(settings.redis_port)
    processes = of_ours(settings)
    (stub,) = [one for kind, members in processes.items() if kind.startswith(STUB_OF) for one in members][:1]
    context = _context(settings.bundle)
    caller = GrpcCaller(f"{LOOPBACK}:{settings.triton_grpc_port}", our_messages(users, context, 10))
    say(f"sampling process {stub.pid} for {SAMPLED_S} s, 16 clients")
    try:
        stacks = inside(sampled(stub.pid, lambda: caller.closed(16, SAMPLED_S + 1.0, seed=0)))
    except BenchError as error:
        print(f"flame    {error}", file=sys.stderr)
        return 1
    picture = settings.var / "bench" / "images" / PICTURE
    write_svg(picture, stacks, "The chain from execute to response, by time, 16 clients")
    for part, share in shares(stacks).items():
        say(f"{part}: {share:.0%}")
    say(f"wrote {picture}")
    return 0


def _context(bundle: Path) -> tuple[str, ...]:
    return tuple(json.loads((bundle / "manifest.json").read_text())["context"])


if __name__ == "__main__":
    sys.exit(main())

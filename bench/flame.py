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

import psutil
from redis.exceptions import RedisError

from bench.designs import GrpcCaller, our_messages
from bench.flame_svg import write_svg
from bench.processes import Processes, of_ours, stubs_in
from bench.record import say
from bench.replies import seen_users
from bench.servers import BenchError
from bench.stacks import Stack, inside, parsed, shares
from deploy.local.settings import LOOPBACK, LocalSettings, load_settings

PICTURE = "chain.svg"
RATE = 100
SAMPLED_S = 10
PATIENCE_S = 60
CLIENTS = 16


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
            output, _ = spy.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            spy.kill()
            raise BenchError("py-spy does not end") from None
        finally:
            spy.poll()
        if spy.returncode or not path.exists():
            raise BenchError(f"py-spy cannot sample process {pid}: {output.strip()[-200:]}")
        return [parsed(line) for line in path.read_text().splitlines() if line]


def busiest_stub(processes: Processes) -> psutil.Process:
    """Finds the Python process of Triton that has used the most CPU.

    Raises:
        BenchError: Triton has none.
    """
    stubs = stubs_in(processes)
    if not stubs:
        raise BenchError("our Triton has no Python process")
    return max(stubs, key=lambda process: sum(process.cpu_times()[:2]))


def running_stacks(settings: LocalSettings) -> list[Stack]:
    """Samples the running stack, asked by `CLIENTS` clients.

    Raises:
        BenchError: py-spy cannot, or a part of the stack is missing.
        RedisError, OSError, psutil.Error: the stack does not run.
    """
    manifest = json.loads((settings.bundle / "manifest.json").read_text())
    users = seen_users(settings.redis, manifest["dataset"])
    if not users:
        raise BenchError("no user has seen anything; run make materialize")
    stub = busiest_stub(of_ours(settings))
    messages = our_messages(manifest["bundle"], users, tuple(manifest["context"]), 10)
    caller = GrpcCaller(f"{LOOPBACK}:{settings.triton_grpc_port}", messages)
    say(f"sampling process {stub.pid} for {SAMPLED_S} s, {CLIENTS} clients")
    return inside(sampled(stub.pid, lambda: caller.closed(CLIENTS, SAMPLED_S + 1.0, seed=0)))


def main() -> int:
    """Samples the running stack and writes the picture; 1 with one line where it cannot."""
    settings = load_settings()
    try:
        stacks = running_stacks(settings)
    except (RedisError, OSError, psutil.Error) as error:
        print(f"flame    the stack does not run ({error}); run make up", file=sys.stderr)
        return 1
    except BenchError as error:
        print(f"flame    {error}", file=sys.stderr)
        return 1
    picture = settings.var / "bench" / "images" / PICTURE
    write_svg(picture, stacks, f"The chain from execute to response, by time, {CLIENTS} clients")
    for part, share in shares(stacks).items():
        say(f"{part}: {share:.0%}")
    say(f"wrote {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

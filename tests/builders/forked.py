"""Runs a function in several processes of one group, forked from this one: what it has imported is there."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tests.builders.ports import free_port
from training.torchrec.ranks import Ranks, process_group

TIMEOUT_S = 120.0


def forked(count: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """Gives what each rank gives, in their order; an exception of one, or its silence, fails."""
    context = multiprocessing.get_context("fork")
    variables = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pipes, processes = [], []
    for rank in range(count):
        here, there = context.Pipe(duplex=False)
        own = {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
        environment = variables | {name: str(value) for name, value in own.items()}
        process = context.Process(target=_in_child, args=(there, environment, work), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    try:
        return [_received(pipe) for pipe in pipes]
    finally:
        for process in processes:
            process.join(5)
            process.kill()


def _received(pipe: Connection) -> Any:
    assert pipe.poll(TIMEOUT_S), "a rank is silent"
    is_well, result = pipe.recv()
    assert is_well, result
    return result


def _in_child(pipe: Connection, environment: dict[str, str], work: Callable[[Ranks], Any]) -> None:
    os.environ.update(environment)
    try:
        with process_group() as ranks:
            reply = True, work(ranks)
    except BaseException:
        reply = False, traceback.format_exc()
    pipe.send(reply)
    pipe.close()
    os._exit(0)

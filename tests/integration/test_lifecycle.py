"""The commands of a user: demo, up, down, and what they say when something is in the way."""

from __future__ import annotations

import json
import socket
import time

import psutil
import pytest

from deploy.local.demo import PATH
from tests.builders.world import World
from tests.integration.conftest import Demo

pytestmark = pytest.mark.timeout(900)


def listening(world: World) -> list[int]:
    """Ports of the world that someone listens on."""
    open_ports = set()
    for port in world.ports.values():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                open_ports.add(port)
    return sorted(open_ports)


def processes(world: World) -> list[int]:
    """Processes that were started with the world's run-time folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SHORTLIST_VAR_DIR") == str(world.var):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_the_demo_walks_the_whole_path_and_stops_everything(demo: Demo) -> None:
    for step in PATH:
        assert f"{step.name} ─" in demo.output
    assert demo.output.count("source ensemble") == 3, "three users were answered"
    assert "degraded: unknown_user" in demo.output
    assert "TopPop" in demo.output or "top_pop" in demo.output or "top pop" in demo.output.lower()
    assert "(from the scheduled instant)" in demo.output
    assert "errors      none" in demo.output
    assert listening(demo.world) == []
    assert processes(demo.world) == []


def test_the_demos_load_run_left_its_report(demo: Demo) -> None:
    (figures,) = (demo.world.var / "load").glob("*.json")
    report = json.loads(figures.read_text())
    assert report["answered"] == report["scheduled"] > 300
    assert figures.with_suffix(".png").is_file()


def test_a_second_demo_reuses_the_bundle(own_world: World) -> None:
    before = own_world.manifest()
    done = own_world.run("dev", "-m", "deploy.local.demo")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert own_world.manifest() == before
    assert "is current already" in done.stdout
    assert listening(own_world) == []


def test_a_failing_demo_names_the_step_shows_its_log_and_stops_everything(own_world: World) -> None:
    done = own_world.run("dev", "-m", "deploy.local.demo", DATA=str(own_world.var / "nothing_here"))
    assert done.returncode == 1
    assert "prepare failed with exit status 1" in done.stderr
    assert "nothing_here" in done.stderr
    assert "Traceback" not in done.stderr
    assert listening(own_world) == []


def test_up_and_down_may_be_said_twice(own_world: World) -> None:
    first = own_world.stack("up")
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"serving at {own_world.url}" in first.stdout
    pids = own_world.pids()
    started = time.monotonic()
    again = own_world.stack("up")
    assert again.returncode == 0
    assert own_world.pids() == pids
    assert time.monotonic() - started < 30
    assert listening(own_world) == sorted(own_world.ports.values())
    assert own_world.stack("down").returncode == 0
    assert listening(own_world) == []
    assert processes(own_world) == []
    twice = own_world.stack("down")
    assert twice.returncode == 0
    assert "nothing runs" in twice.stdout


@pytest.mark.parametrize("setting", ["SHORTLIST_PORT", "SHORTLIST_REDIS_PORT", "SHORTLIST_TRITON_GRPC_PORT"])
def test_a_taken_port_stops_the_start_with_one_line(own_world: World, setting: str) -> None:
    port = own_world.ports[setting.removeprefix("SHORTLIST_")]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        done = own_world.stack("up")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"port {port} is taken" in line
    assert setting in line
    assert processes(own_world) == []


def test_servers_that_a_killed_supervisor_left_are_stopped(own_world: World) -> None:
    own_world.up("redis")
    pid = int((own_world.var / "run" / "supervisord.pid").read_text())
    psutil.Process(pid).kill()
    assert listening(own_world) == [own_world.ports["REDIS_PORT"]]
    own_world.down()
    assert listening(own_world) == []


def test_nothing_to_serve_is_one_line_with_the_remedy(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = World.make(tmp_path_factory.mktemp("empty") / "var")
    done = world.stack("up")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "make demo" in line
    assert listening(world) == []

"""The watch replaces what does not work, and nothing that starts, is busy, or waits for another server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import redis

from contract.tensors import (
    ANSWER,
    NO_DEADLINE,
    OPTIONAL_TENSORS,
    REQUEST,
    request_layout,
    request_tensor,
    unpack,
)
from deploy.local.settings import ROOT, LocalSettings
from deploy.local.watch import WatchedRedis
from ensemble.triton import watch
from ensemble.triton.probe import Look, Probe, Sign
from tests.builders.ports import free_port
from tests.builders.redis_server import redis_server

CONTEXT = ("context_hour",)
MODEL = "a-bundle"
WELL, BROKEN, SILENT, STARTING = (
    Look(Sign.ANSWERS),
    Look(Sign.BROKEN),
    Look(Sign.SILENT),
    Look(Sign.STARTING),
)


class FakeTriton(ThreadingHTTPServer):
    """Says of its model what Triton says, and answers inference with `status` and `said`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeAnswers)
        self.status, self.said, self.delay_s, self.executions = 200, "{}", 0.0, 7
        self.models = [MODEL]
        self.asked: list[dict[str, Any]] = []


class FakeAnswers(BaseHTTPRequestHandler):
    server: FakeTriton

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        if self.path.endswith("/stats"):
            self._tell(200, json.dumps({"model_stats": [{"execution_count": self.server.executions}]}))
            return
        described = (request_tensor(CONTEXT), *OPTIONAL_TENSORS)
        inputs = [{"name": t.name, "datatype": "INT64", "shape": [-1, t.width]} for t in described]
        self._tell(200, json.dumps({"name": MODEL, "inputs": inputs}))

    def do_POST(self) -> None:
        if self.path == "/v2/repository/index":
            index = [{"name": name, "state": "READY"} for name in self.server.models]
            self._tell(200, json.dumps(index))
            return
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        time.sleep(self.server.delay_s)
        self._tell(self.server.status, self.server.said)

    def _tell(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    with FakeTriton() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "said", "sign"),
    [
        (200, "{}", Sign.ANSWERS),
        (503, '{"error":"dependency|lookup_user_features|Connection refused"}', Sign.ANSWERS),
        (500, '{"error":"Stub process \'recommend_0_0\' is not healthy."}', Sign.BROKEN),
        (400, '{"error":"Request for unknown model: \'recommend\' is not ready"}', Sign.STARTING),
        (503, '{"error":"Exceeds maximum queue size"}', Sign.SILENT),
        (500, '{"error":"Request timeout expired"}', Sign.SILENT),
    ],
)
def test_what_triton_says_has_a_meaning(triton: FakeTriton, status: int, said: str, sign: Sign) -> None:
    triton.status, triton.said = status, said
    assert Probe("127.0.0.1", triton.server_port).look().sign is sign


def test_a_server_that_takes_a_request_and_never_answers_is_silent(triton: FakeTriton) -> None:
    triton.delay_s = 0.5
    probe = Probe("127.0.0.1", triton.server_port, timeout_s=0.1)
    assert probe.look().sign is Sign.SILENT
    assert probe.executions() == 7


def test_no_server_is_one_that_starts() -> None:
    probe = Probe("127.0.0.1", free_port())
    assert probe.look().sign is Sign.STARTING
    assert probe.executions() is None


def test_the_probe_is_a_whole_request(triton: FakeTriton) -> None:
    assert Probe("127.0.0.1", triton.server_port).look().sign is Sign.ANSWERS
    (sent,) = triton.asked[0]["inputs"]
    assert (sent["name"], sent["shape"]) == (REQUEST, [1, len(sent["data"])])
    asked = unpack(np.array([sent["data"]]), request_layout(CONTEXT))
    assert asked["quality"].tolist() == [[1.0]]
    assert asked["deadline_us"].tolist() == [[NO_DEADLINE]]
    assert triton.asked[0]["outputs"] == [{"name": ANSWER.name}]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def judge(patience: watch.Tolerance, *looks: Look, pid: int = 1, works: bool = False) -> list[bool]:
    return [patience.must_replace(pid, look, works=works) for look in looks]


@pytest.mark.parametrize("bad", [BROKEN, SILENT])
def test_a_server_is_replaced_after_three_bad_looks(bad: Look) -> None:
    assert judge(watch.Tolerance(3), WELL, bad, bad, bad) == [False, False, False, True]


def test_one_stall_is_forgiven() -> None:
    assert not any(judge(watch.Tolerance(3), *[SILENT, SILENT, WELL, WELL, WELL, WELL] * 20))


def test_one_stuck_process_of_two_is_found() -> None:
    assert any(judge(watch.Tolerance(3), *[BROKEN, WELL] * 6))


def test_a_server_that_starts_or_is_busy_is_left_alone() -> None:
    patience = watch.Tolerance(3)
    assert not any(judge(patience, *[STARTING] * 600))
    assert not any(judge(patience, *[SILENT] * 600, works=True))


def test_a_new_process_has_a_clean_record() -> None:
    patience = watch.Tolerance(3)
    assert judge(patience, SILENT, SILENT) == [False, False]
    assert judge(patience, SILENT, SILENT, pid=2) == [False, False]


def test_a_certain_death_needs_no_second_look() -> None:
    assert watch.Tolerance(3).must_replace(1, BROKEN, works=False, is_certain=True)


def test_replacing_never_becomes_a_loop() -> None:
    clock = Clock()
    patience, replaced = watch.Tolerance(3, clock), list[int]()
    for second in range(3600):
        clock.now = float(second)
        if patience.must_replace(len(replaced), BROKEN, works=False):
            replaced.append(second)
    pauses = [after - before for before, after in pairwise(replaced)]
    assert pauses[:4] == [10, 20, 40, 80]
    assert max(pauses) == 300


def test_a_server_that_was_well_for_a_minute_is_replaced_at_once_again() -> None:
    clock = Clock()
    patience = watch.Tolerance(1, clock)
    assert judge(patience, BROKEN) == [True]
    assert judge(patience, BROKEN, pid=2) == [False]
    for second in range(100):
        clock.now = 10.0 + second
        assert judge(patience, WELL, pid=2) == [False]
    assert judge(patience, BROKEN, pid=2) == [True]
    clock.now += watch.FIRST_PAUSE_S
    assert judge(patience, BROKEN, pid=3) == [True]


def test_the_end_of_a_python_process_is_seen_at_once(
    triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["sleep", "600"]) as stub:
        stubs = {stub.pid: MODEL}
        alive = {1: stubs}
        monkeypatch.setattr(watch, "stubs_of", lambda pid: alive.get(pid, {}))
        server = watch.WatchedTriton("127.0.0.1", triton.server_port)
        assert server.look(1).sign is Sign.ANSWERS
        assert not server.lost()

        def end() -> None:
            stubs.clear()
            stub.kill()

        threading.Timer(0.2, end).start()
        started = time.monotonic()
        server.wait(30.0)
        assert time.monotonic() - started < 20.0, "it does not wait the interval out"
        assert server.lost()
        assert server.look(1).sign is Sign.BROKEN
        assert server.look(2).sign is Sign.ANSWERS, "its successor"
        assert not server.lost()


def test_a_python_process_that_ends_with_its_model_is_no_loss(
    triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["sleep", "600"]) as stub:
        stubs = {stub.pid: MODEL}
        monkeypatch.setattr(watch, "stubs_of", lambda _: stubs)
        server = watch.WatchedTriton("127.0.0.1", triton.server_port)
        assert server.look(1).sign is Sign.ANSWERS
        triton.models = []
        stubs.clear()
        stub.kill()
        stub.wait()
        assert not server.lost()
        assert server.look(1).sign is Sign.STARTING


def test_the_worst_of_several_models_counts_and_one_that_is_leaving_does_not(triton: FakeTriton) -> None:
    probe = Probe("127.0.0.1", triton.server_port)
    triton.models = [MODEL, "another"]
    assert probe.look().sign is Sign.ANSWERS
    assert len(triton.asked) == 2
    triton.models = []
    assert probe.look().sign is Sign.STARTING


def test_what_a_redis_did_before_it_fell_silent_does_not_excuse_it(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url, redis.Redis(**url.connection_kwargs()) as client:
        settings = LocalSettings(var_dir=tmp_path, redis_port=url.port)
        client.config_set("requirepass", settings.local_redis.password)
        pid = int(client.info("server")["process_id"])
        server = WatchedRedis(settings)
        assert server.look(pid).sign is Sign.ANSWERS
        client.eval("for i = 1, 1e7 do end", 0)  # some 0.1 s of CPU
        process = psutil.Process(pid)
        process.suspend()
        try:
            assert server.look(pid).sign is Sign.SILENT
            assert not server.progress(pid)
        finally:
            process.resume()


def test_a_redis_that_is_busy_during_a_look_gets_on(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url, redis.Redis(**url.connection_kwargs()) as client:
        settings = LocalSettings(var_dir=tmp_path, redis_port=url.port)
        client.config_set("requirepass", settings.local_redis.password)
        pid = int(client.info("server")["process_id"])
        server = WatchedRedis(settings)
        busy = redis.Redis(**settings.local_redis.connection_kwargs())
        client.config_set("busy-reply-threshold", 0)

        def work() -> None:
            with suppress(redis.RedisError):
                busy.eval("while true do end", 0)

        threading.Thread(target=work).start()
        time.sleep(0.1)
        assert server.look(pid).sign is Sign.SILENT
        assert server.progress(pid)
        psutil.Process(pid).kill()


def test_killing_a_server_ends_its_children_even_stopped_ones() -> None:
    command = ["bash", "-c", "sleep 600 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        child = psutil.Process(int(server.stdout.readline()))
        child.send_signal(signal.SIGSTOP)
        watch.kill(server.pid)
        assert server.wait(10) == -signal.SIGKILL
        gone, _ = psutil.wait_procs([child], timeout=10)
        assert gone or child.status() == psutil.STATUS_ZOMBIE


def under_watch(triton: FakeTriton, *command: str) -> subprocess.Popen[str]:
    """Starts what a container starts."""
    port = str(triton.server_port)
    started = [sys.executable, "-m", "ensemble.triton.watch", "--port", port, *command]
    return subprocess.Popen(started, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_a_container_ends_with_a_server_that_will_not_answer_again(triton: FakeTriton) -> None:
    triton.status, triton.said = 500, '{"error":"Stub process \'recommend_0_0\' is not healthy."}'
    with under_watch(triton, "sleep", "600") as container:
        _, said = container.communicate(timeout=60)
    assert container.returncode == 1
    assert "triton" in said
    assert "is not healthy" in said
    assert "replacing it" in said


def test_a_container_ends_with_the_status_of_its_server(triton: FakeTriton) -> None:
    with under_watch(triton, "sh", "-c", "exit 3") as container:
        assert container.wait(60) == 3


def test_a_container_that_is_stopped_passes_it_on_and_does_not_look_any_more(triton: FakeTriton) -> None:
    ends_slowly = "trap 'sleep 1; exit 0' TERM; while true; do sleep 0.1; done"
    with under_watch(triton, "sh", "-c", ends_slowly) as container:
        until = time.monotonic() + 60
        while not triton.asked and time.monotonic() < until:
            time.sleep(0.05)
        container.terminate()
        assert container.wait(60) == 0
    assert triton.asked

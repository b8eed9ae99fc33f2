"""The load generator hides no stall, and its own cost is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.load import generate, report

STALL_S = 0.5


class Stalling(BaseHTTPRequestHandler):
    """Answers at once, but while the server is stalled only after the stall's end."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True
    status = 200
    stalled_until = 0.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert set(json.loads(body)) == {"user_id", "n"}
        time.sleep(max(0.0, type(self).stalled_until - time.monotonic()))
        answer = json.dumps({"source": "ensemble", "degraded": ["short"]}).encode()
        self.send_response(type(self).status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Stalling]]]:
    handler = type("Handler", (Stalling,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", handler
        listening.shutdown()
        thread.join()


def load(url: str, rate: float = 100.0, duration_s: float = 2.0) -> generate.Result:
    return asyncio.run(generate.run(url, [1, 2, 3], rate=rate, duration_s=duration_s))


def test_schedule_has_the_rate_and_follows_the_seed() -> None:
    instants = generate.schedule(200.0, 50.0, seed=1)
    assert instants == generate.schedule(200.0, 50.0, seed=1) == sorted(instants)
    assert instants != generate.schedule(200.0, 50.0, seed=2)
    assert len(instants) == pytest.approx(10_000, rel=0.05)
    assert max(instants) < 50.0


def test_a_stall_shows_in_every_request_that_fell_due_in_it(server: tuple[str, type[Stalling]]) -> None:
    url, handler = server

    def stall() -> None:
        time.sleep(1.0)
        handler.stalled_until = time.monotonic() + STALL_S

    thread = Thread(target=stall)
    thread.start()
    result = load(url)
    thread.join()
    told = report.summary(result, {})
    # A quarter of the run was stalled. A client that waits for each answer would see one slow request of 150.
    slow = sum(count for ms, count in report.recorded(result.latency) if ms > 100.0)
    assert slow > 20
    assert told["latency_ms"]["p99"] > 1000 * STALL_S * 0.7
    assert told["latency_ms"]["max"] >= told["latency_ms"]["p99"] >= told["latency_ms"]["p95"]


def test_every_scheduled_request_is_counted_once(server: tuple[str, type[Stalling]]) -> None:
    result = load(server[0], duration_s=1.0)
    assert result.scheduled == result.answered == result.latency.get_total_count() > 50
    assert result.sources == {"ensemble": result.scheduled}
    assert result.degraded == {"short": result.scheduled}
    assert not result.errors


def test_failed_requests_are_errors_by_kind(server: tuple[str, type[Stalling]]) -> None:
    url, handler = server
    handler.status = 503
    result = load(url, duration_s=0.5)
    assert result.errors == {"HTTP 503": result.scheduled}
    assert result.achieved_rate == 0.0


def test_a_server_that_is_gone_is_an_error_not_a_crash() -> None:
    result = load("http://127.0.0.1:9", duration_s=0.2)
    assert result.errors == {"ConnectError": result.scheduled}


def test_report_holds_a_histogram_of_all_answers_and_a_picture(
    server: tuple[str, type[Stalling]], tmp_path: Path
) -> None:
    result = load(server[0], duration_s=0.5)
    told = report.summary(result, {"rate": 100.0, "duration_s": 0.5, "users": 3, "seed": 0, "n": 10})
    lines = report.text(told, result.latency).splitlines()
    bars = [line for line in lines if " ms " in line and " - " in line]
    assert sum(int(line.split(" ms ")[1].split()[0]) for line in bars) == result.scheduled
    figures, picture = report.write(told, result.latency, tmp_path, "run")
    assert json.loads(figures.read_text()) == told
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "run.png"]

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
import redis

from bench.load import report, result, traffic
from bench.load.load import LoadError, user_ids
from contract.feast import feature_key
from contract.keys import seen_key
from tests.builders.redis_server import redis_server

STALL_S = 0.5


def test_where_nothing_counts_as_seen_users_with_features_are_drawn(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url, redis.Redis(**url.connection_kwargs()) as client:
        with pytest.raises(LoadError, match="holds no user of shop; run `make materialize`"):
            user_ids(url, "shop", 5, 0)
        for dataset, user_id in (("shop", -4), ("shop", 7), ("workshop", 9)):
            client.hset(feature_key("user_id", user_id, dataset), "x", "y")
        assert sorted(user_ids(url, "shop", 5, 0)) == [-4, 7]
        client.set(seen_key("shop", 7), b"")
        assert user_ids(url, "shop", 5, 0) == [7]


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


def load(url: str, rate: float = 100.0, duration_s: float = 2.0) -> result.Result:
    port = int(url.rpartition(":")[2])
    run = asyncio.run(traffic.open_loop(port, [1, 2, 3], rate=rate, duration_s=duration_s))
    return result.count(run, duration_s)


def test_schedule_has_the_rate_and_follows_the_seed() -> None:
    instants = traffic.schedule(200.0, 50.0, seed=1)
    assert instants == traffic.schedule(200.0, 50.0, seed=1) == sorted(instants)
    assert instants != traffic.schedule(200.0, 50.0, seed=2)
    assert len(instants) == pytest.approx(10_000, rel=0.05)
    assert max(instants) < 50.0


def test_a_stall_shows_in_every_request_that_fell_due_in_it(server: tuple[str, type[Stalling]]) -> None:
    url, handler = server

    def stall() -> None:
        time.sleep(1.0)
        handler.stalled_until = time.monotonic() + STALL_S

    thread = Thread(target=stall)
    thread.start()
    seen = load(url)
    thread.join()
    summary = report.summary(seen, {})
    # A quarter of the run was stalled. A client that waits for each answer would see one slow request of 150.
    slow = sum(count for ms, count in report.recorded(seen.latency) if ms > 100.0)
    assert slow > 20
    assert summary["latency_ms"]["p99"] > 1000 * STALL_S * 0.7
    assert summary["latency_ms"]["max"] >= summary["latency_ms"]["p99"] >= summary["latency_ms"]["p95"]


def test_every_scheduled_request_is_counted_once(server: tuple[str, type[Stalling]]) -> None:
    seen = load(server[0], duration_s=1.0)
    assert seen.scheduled == seen.answered == seen.latency.get_total_count() > 50
    assert seen.sources == {"ensemble": seen.scheduled}
    assert seen.degraded == {"short": seen.scheduled}
    assert not seen.errors


def test_failed_requests_are_errors_by_kind(server: tuple[str, type[Stalling]]) -> None:
    url, handler = server
    handler.status = 503
    seen = load(url, duration_s=0.5)
    assert seen.errors == {"HTTP 503": seen.scheduled}
    assert seen.achieved_rate == 0.0


def test_a_server_that_is_gone_is_an_error_not_a_crash() -> None:
    seen = load("http://127.0.0.1:9", duration_s=0.2)
    assert seen.errors == {"ConnectionRefusedError": seen.scheduled}


def test_report_holds_a_histogram_of_all_answers_and_a_picture(
    server: tuple[str, type[Stalling]], tmp_path: Path
) -> None:
    seen = load(server[0], duration_s=0.5)
    summary = report.summary(seen, {"rate": 100.0, "duration_s": 0.5, "users": 3, "seed": 0, "n": 10})
    lines = report.text(summary, seen.latency).splitlines()
    bars = [line for line in lines if " ms " in line and " - " in line]
    assert sum(int(line.split(" ms ")[1].split()[0]) for line in bars) == seen.scheduled
    figures, picture = report.write(summary, seen.latency, tmp_path, "run")
    assert json.loads(figures.read_text()) == summary
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "run.png"]


def test_callers_that_wait_ask_one_request_after_the_other(server: tuple[str, type[Stalling]]) -> None:
    port = int(server[0].rpartition(":")[2])
    run = asyncio.run(traffic.closed_loop(port, [1, 2, 3], clients=2, duration_s=0.5))
    assert {exchange.status for exchange in run.exchanges} == {200}
    assert {exchange.user_id for exchange in run.exchanges} == {1, 2, 3}
    starts = sorted((exchange.sent_s, 1) for exchange in run.exchanges)
    ends = sorted((exchange.done_s, -1) for exchange in run.exchanges)
    at_once = 0
    for _, change in sorted(starts + ends):
        at_once += change
        assert 0 <= at_once <= 2


def test_an_answer_that_does_not_come_is_an_error_after_the_timeout(
    server: tuple[str, type[Stalling]],
) -> None:
    url, handler = server
    handler.stalled_until = time.monotonic() + 2.0
    port = int(url.rpartition(":")[2])
    run = asyncio.run(traffic.open_loop(port, [1], rate=20.0, duration_s=0.5, timeout_s=0.2))
    assert result.count(run, 0.5).errors == {"timeout": len(run.exchanges)}
    assert all(200 <= exchange.latency_ms < 1500 for exchange in run.exchanges)

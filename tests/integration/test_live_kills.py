"""Gateways, consumers and Redis are killed in turns, at random instants: every accepted event has its effect
once."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from contract.activity import ActivityState
from contract.events import PARTITIONS
from contract.feast import AVAILABILITY_FIELD, feature_key, state_field
from contract.keys import activity_rates_key, decode_seen, event_stream_key, seen_key
from contract.names import ITEM_ACTIVITY, ITEM_ID, USER_ACTIVITY, USER_ID
from tests.builders.gateway import write_bundle
from tests.builders.ports import free_port
from tests.builders.redis_server import ROOT, redis_binary

DATASET = "synthetic"
KILLS = 50
PAUSE_S = 1.0
"""Between two kills at most: what was killed is started again at once, and killed again once it works."""
USERS, ITEMS, CALLERS = 40, 2000, 4
_READ = """
import json, sys
from pathlib import Path
from contract.event_archive import events_folder, read_archive
table = read_archive(events_folder(Path(sys.argv[1]), sys.argv[2]))
rows = [] if table is None else zip(table["user_id"].to_pylist(), table["item_id"].to_pylist())
print(json.dumps(list(rows)))
"""


class Killed:
    """A server that is started again whenever it was killed; `at_work` is in its log once it works."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, at_work: str) -> None:
        self.command, self.environment, self.log, self.at_work = command, environment, log, at_work
        self.process, self.starts = self._start(), 1

    def is_at_work(self) -> bool:
        """Whether it works since it was started last."""
        return self.log.read_text().count(self.at_work) >= self.starts

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command, cwd=ROOT, env=os.environ | self.environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """Kills it at once, as by -9, and starts it again."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.process, self.starts = self._start(), self.starts + 1

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(20)


class Site:
    """Redis, two gateways and two consumers, on ports of their own."""

    def __init__(self, folder: Path) -> None:
        port, self.urls = free_port(), [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        self.var = folder / "var"
        bundle = write_bundle(folder / "bundle")
        declared = (ROOT / "training/data/sources/synthetic.yaml").read_text()
        (bundle / "dataset.yaml").write_text(declared)
        environment = {
            "SHORTLIST_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "SHORTLIST_VAR_DIR": str(self.var),
            "SHORTLIST_BUNDLE_DIR": str(bundle),
            "SHORTLIST_LIVE_LEASE_S": "1",
            "SHORTLIST_LIVE_ARCHIVE_S": "2",
        }
        options = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--dir", str(folder)]
        redis_command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", *options]
        self.redis = redis.Redis(port=port)
        self.servers = [Killed(redis_command, {}, folder / "redis.log", "Ready to accept connections")]
        _until(self._answers)
        self.redis.set(activity_rates_key(DATASET), json.dumps({"is_click": 0.5, "is_purchase": 0.1}))
        pipe = self.redis.pipeline()
        for item_id in range(ITEMS):
            pipe.hset(feature_key(ITEM_ID, item_id, DATASET), AVAILABILITY_FIELD, b"\x38\x01")
        pipe.execute()
        gateway = [str(ROOT / ".venv/gateway/bin/python"), "-m", "service.main"]
        consumer = [str(ROOT / ".venv/triton/bin/python"), "-m", "live", "consume"]
        for url in self.urls:
            name = url.rpartition(":")[2]
            given = environment | {"SHORTLIST_PORT": name}
            self.servers.append(Killed(gateway, given, folder / f"gateway-{name}.log", '"listening"'))
            self.servers.append(Killed(consumer, environment, folder / f"consumer-{name}.log", "at work"))

    def _answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis.RedisError:
            return False

    def waiting(self) -> int:
        """Counts the entries that had no effect yet, or are not archived."""
        try:
            return sum(self.redis.xlen(event_stream_key(DATASET, one)) for one in range(PARTITIONS))
        except redis.RedisError:
            return 1


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    until_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for server in reversed(made.servers):
        server.stop()


class Caller(threading.Thread):
    """Sends clicks of some users on one item after the other, each again until it is accepted."""

    def __init__(self, urls: list[str], users: range, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.urls, self.users, self.stop = urls, users, stop
        self.accepted: list[tuple[int, int]] = []
        self.again = 0

    def run(self) -> None:
        """Sends until told to stop."""
        with httpx.Client(timeout=3) as http:
            for item_id in range(ITEMS):
                sent = [
                    {"user_id": user, "item_id": item_id, "type": "click", "event_id": f"e{item_id}"}
                    for user in self.users
                ]
                while not self._is_accepted(http, sent):
                    self.again += 1
                    time.sleep(0.1)
                self.accepted += [(user, item_id) for user in self.users]
                if self.stop.is_set():
                    return

    def _is_accepted(self, http: httpx.Client, sent: list[dict[str, Any]]) -> bool:
        url = random.choice(self.urls)
        try:
            answer = http.post(f"{url}/v1/events", json={"events": sent})
        except httpx.TransportError:
            return False
        assert answer.status_code in (202, 503), answer.text
        return answer.status_code == 202


def test_every_accepted_event_has_its_effect_once_through_fifty_kills(site: Site) -> None:
    chance, stop = random.Random(7), threading.Event()
    _until(lambda: all(server.is_at_work() for server in site.servers))
    share = USERS // CALLERS
    callers = [Caller(site.urls, range(n * share, (n + 1) * share), stop) for n in range(CALLERS)]
    for caller in callers:
        caller.start()
    for _, server in zip(range(KILLS), itertools.cycle(site.servers), strict=False):
        _until(server.is_at_work)
        time.sleep(chance.uniform(0, PAUSE_S))
        server.kill()
    stop.set()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    _until(lambda: site.waiting() == 0)
    accepted = [pair for caller in callers for pair in caller.accepted]
    assert len(accepted) > 100
    assert sum(caller.again for caller in callers) > 0, "nobody noticed a kill"
    by_user: dict[int, list[int]] = {}
    for user_id, item_id in accepted:
        by_user.setdefault(user_id, []).append(item_id)
    for user_id, items in by_user.items():
        value: Any = site.redis.get(seen_key(DATASET, user_id))
        seen = decode_seen(value).tolist()
        assert seen == items[::-1], "in order, each once"
        assert _count(site.redis, USER_ID, user_id, USER_ACTIVITY) == len(items)
    by_item = Counter(item_id for _, item_id in accepted)
    assert {item: _count(site.redis, ITEM_ID, item, ITEM_ACTIVITY) for item in by_item} == by_item
    command = [str(ROOT / ".venv/triton/bin/python"), "-c", _READ, str(site.var), DATASET]
    archived = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert sorted(map(tuple, archived)) == sorted(accepted)


def _count(client: Any, key: str, number: int, view: str) -> int:
    return ActivityState.decode(client.hget(feature_key(key, number, DATASET), state_field(view))).count

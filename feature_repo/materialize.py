"""Brings features into Redis: writes Feast's sources, applies the definitions, and runs `feast materialize`.

The first time that is `feast materialize <first event> <as-of>`, afterwards `feast materialize-incremental
<as-of>`: Feast's first incremental run would start at now minus ttl, and load nothing of an old data set.
Incremental is right only while nothing that was loaded has changed; where it has, or Redis was emptied,
everything is loaded again.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from feast.protos.feast.core.Registry_pb2 import Registry
from redis import Redis
from redis.exceptions import RedisError

import feature_repo
from contract.dataset import DatasetError
from contract.environment import RedisUrl, explain_redis
from feature_repo.changed import changed_users
from feature_repo.connection import BY_HAND, VARIABLE, connection_string
from feature_repo.online import Loaded, OnlineStore
from training.data.prepared import Prepared
from training.features.tables import digest, feature_tables, first_event, write_features

REPOSITORY = Path(feature_repo.__file__).parent
_RUN_COMMANDS = """
import shlex, sys
from feast.cli.cli import cli
for line in sys.argv[1:]:
    cli(shlex.split(line), standalone_mode=False)
"""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Arrived:
    """What Redis holds after a materialisation, counted there."""

    rows: dict[str, int]
    seen_users: int
    as_of: datetime
    command: str


class Feast:
    """Runs Feast's own commands on `feature_repo/` for one data set."""

    def __init__(self, prepared: Prepared, url: RedisUrl, *, is_quiet: bool = False) -> None:
        var_dir = prepared.folder.resolve().parents[1]
        self.folder = var_dir / "feast" / prepared.dataset.name
        self.is_quiet = is_quiet
        self.variables = {
            "SHORTLIST_DATASET": prepared.dataset.name,
            "SHORTLIST_VAR_DIR": str(var_dir),
        }
        self.url = url

    @property
    def registry(self) -> Path:
        """The file in which Feast keeps its definitions, and what it loaded."""
        return self.folder / "registry.db"

    def environment(self) -> dict[str, str]:
        """The variables of a Feast process; protobuf's slow implementation, which Merlin asks for, is not
        passed on.
        """
        slow = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
        inherited = {name: value for name, value in os.environ.items() if name != slow}
        calm = {"DASK_DATAFRAME__QUERY_PLANNING_WARNING": "False", "PYTHONWARNINGS": "ignore"}
        return inherited | calm | self.variables | {VARIABLE: connection_string(self.url)}

    def by_hand(self, *arguments: str) -> str:
        """Writes a command as a person would type it, who has SHORTLIST_REDIS_URL set."""
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.variables.items())
        return f"{settings} {BY_HAND} feast --chdir {shlex.quote(str(REPOSITORY))} {shlex.join(arguments)}"

    def run(self, *commands: tuple[str, ...]) -> None:
        """Runs Feast's commands one after the other in one process, as starting one takes seconds.

        Raises:
            DatasetError: one failed; the message ends with its last lines.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [shlex.join(("--chdir", str(REPOSITORY), *command)) for command in commands]
        finished = subprocess.run(
            [sys.executable, "-c", _RUN_COMMANDS, *lines],
            env=self.environment(),
            stdout=subprocess.PIPE if self.is_quiet else None,
            stderr=subprocess.STDOUT if self.is_quiet else None,
            text=True,
            check=False,
        )
        if finished.returncode:
            last = "\n".join((finished.stdout or "").splitlines()[-15:])
            said = " and ".join(f"feast {command[0]}" for command in commands)
            raise DatasetError(f"{said} failed with status {finished.returncode}\n{last}".rstrip())

    def stores(self, view: str) -> bool:
        """Whether a view was defined; one without features is not."""
        registry = Registry.FromString(self.registry.read_bytes())
        return view in {stored.spec.name for stored in registry.feature_views}

    def materialized_until(self) -> datetime | None:
        """Up to when every view was loaded, as the registry has it; None where one never was."""
        if not self.registry.is_file():
            return None
        registry = Registry.FromString(self.registry.read_bytes())
        ends = []
        for view in registry.feature_views:
            if not view.meta.materialization_intervals:
                return None
            ends.append(max(i.end_time.ToDatetime(tzinfo=UTC) for i in view.meta.materialization_intervals))
        return min(ends, default=None)


def materialize(
    prepared: Prepared, url: RedisUrl, *, max_seen: int = 1024, say: Say = print, is_quiet: bool = False
) -> Arrived:
    """Brings a data set's features and seen items into Redis as of its clock, and counts what is there then.

    Raises:
        DatasetError: Redis does not answer, or Feast failed.
    """
    online = connect(url)
    project, as_of = prepared.dataset.name, prepared.dataset.clock().astimezone(UTC).replace(microsecond=0)
    say(f"features of {project} as of {as_of:%Y-%m-%d %H:%M:%S} UTC")
    tables = feature_tables(prepared, as_of)
    changed = changed_users(prepared.folder, tables).tolist()
    online.note_changed(project, changed)
    write_features(prepared.folder, tables)

    feast = Feast(prepared, url, is_quiet=is_quiet)
    is_unchanged = _is_unchanged(tables, online.loaded(project), feast.materialized_until(), as_of)
    if not is_unchanged:
        online.forget(project)
        feast.registry.unlink(missing_ok=True)
    command = (
        ("materialize-incremental", _feast_time(as_of))
        if is_unchanged
        else ("materialize", _feast_time(first_event(prepared)), _feast_time(as_of))
    )
    say(feast.by_hand("apply"))
    say(feast.by_hand(*command))
    feast.run(("apply",), command)

    digests = {view: digest(table, as_of) for view, table in tables.items()}
    online.note_changed(project, changed)
    online.note(project, Loaded(as_of.isoformat(), digests))
    seen = online.write_seen(prepared, as_of, max_seen)
    arrived = Arrived(online.rows(project), seen, as_of, command[0])
    for view, count in arrived.rows.items():
        say(f"{view}: {count:,} rows in Redis")
    say(f"seen: {seen:,} users in Redis")
    check_arrival(arrived.rows, tables, feast)
    return arrived


def check_arrival(rows: Mapping[str, int], tables: Mapping[str, pa.Table], feast: Feast) -> None:
    """Compares the rows in Redis with the keys of the sources.

    Raises:
        DatasetError: some did not arrive.
    """
    for view, table in tables.items():
        expected = len(pc.unique(table[table.column_names[0]])) if feast.stores(view) else 0
        if rows[view] < expected:
            feast.registry.unlink(missing_ok=True)  # the next run loads everything again
            raise DatasetError(
                f"{view}: {rows[view]} of {expected} rows arrived in Redis; look for evictions (maxmemory), "
                "then run `make materialize` again"
            )


def connect(url: RedisUrl) -> OnlineStore:
    """Opens Redis.

    Raises:
        DatasetError: it does not answer.
    """
    try:
        redis = Redis(**url.connection_kwargs())
        redis.ping()
    except RedisError as error:
        raise DatasetError(f"Redis does not answer at {url.address}: {explain_redis(error)}") from None
    return OnlineStore(redis)


def _feast_time(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _is_unchanged(
    tables: Mapping[str, pa.Table], loaded: Loaded | None, registered: datetime | None, as_of: datetime
) -> bool:
    """Whether Redis and Feast's registry agree on what was loaded, and the sources still hold just that."""
    if loaded is None or registered is None:
        return False
    until = datetime.fromisoformat(loaded.until)
    if not until <= registered <= as_of:
        return False
    return all(digest(table, until) == loaded.digests.get(view) for view, table in tables.items())

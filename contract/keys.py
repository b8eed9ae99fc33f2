"""Every key of Redis and its codec, each once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

_BEGAN = "%Y%m%d-%H%M%S"
"""How a batch run's id begins."""


def index_name(bundle: str) -> str:
    """Names the vector index of a bundle."""
    return f"item_vectors:{bundle}"


def item_vector_prefix(bundle: str) -> str:
    """The prefix of the keys that the bundle's index covers: `item_vector:{bundle}:{item_id}`."""
    return f"item_vector:{bundle}:"


def item_vector_key(bundle: str, item_id: int) -> str:
    """The key of an item's hash: its vector, and each column that a request may filter on."""
    return f"{item_vector_prefix(bundle)}{item_id}"


def number_field(column: str) -> str:
    """Names the field of an item's hash that holds a column's number, for ranges."""
    return f"number:{column}"


TAG_SEPARATOR = ","
"""Stands between the values of a column that is a list."""
NO_VALUE = "null"
"""The tag of an item without a value in a column; no value's own, as it is no hex."""


def tag(value: str | None) -> str:
    """Writes a value, in canonical form, as a tag: hex, so that none needs escaping, whatever it holds."""
    return NO_VALUE if value is None else value.encode().hex()


def encode_tags(values: Collection[str]) -> str:
    """Packs the values, in canonical form, that an item holds in a column."""
    return TAG_SEPARATOR.join(sorted(map(tag, values or (None,))))


def decode_tags(value: bytes) -> frozenset[str]:
    """Unpacks `encode_tags`.

    Raises:
        ValueError: it is something else.
    """
    if value == NO_VALUE.encode():
        return frozenset()
    return frozenset(bytes.fromhex(one).decode() for one in value.decode().split(TAG_SEPARATOR))


def item_card_key(bundle: str, item_id: int) -> str:
    """The key of an item's display fields."""
    return f"{item_card_prefix(bundle)}{item_id}"


def item_card_prefix(bundle: str) -> str:
    """The prefix of the keys of a bundle's cards."""
    return f"item_card:{bundle}:"


def embedding_rows_key(bundle: str, column: str, partition: int) -> str:
    """The key of some rows of a bundle's table of embeddings: a hash from a row's key to the row, packed."""
    return f"embedding_rows:{bundle}:{column}:{partition}"


def embedding_updates_key(bundle: str) -> str:
    """The key of the updates of a bundle's embeddings: a stream, whose n-th entry is called `n-0` and names
    the blocks of rows that changed."""
    return f"embedding_updates:{bundle}"


def embedding_block_key(bundle: str, token: str, block: int) -> str:
    """The key of a block of rows of an update, whose `token` tells it from others."""
    return f"embedding_block:{bundle}:{token}:{block}"


def bundles_key(dataset: str) -> str:
    """The key of the bundles of a data set that are indexed: a sorted set, by the time they were."""
    return f"bundles:{dataset}"


def routing_key(dataset: str) -> str:
    """The key of which bundle answers whom: a `Routing`, replaced as one."""
    return f"routing:{dataset}"


def catalogue_stream_key(dataset: str) -> str:
    """The key of the stream of what changes the catalogue and the users: `contract/live_catalogue.py`."""
    return f"catalogue:{dataset}"


def catalogue_reply_key(dataset: str, change_id: str) -> str:
    """The key of what is told of a user who was asked about, as JSON; for a moment."""
    return f"catalogue_reply:{dataset}:{change_id}"


def forgotten_users_key(dataset: str) -> str:
    """The key of the users whose data was deleted: a hash from a digest of the user's number to when that was
    asked for, Unix time in milliseconds."""
    return f"forgotten_users:{dataset}"


def live_items_key(dataset: str) -> str:
    """The key of the items of a data set that were put or taken out while serving: a hash from an item's
    number to its row as JSON, by column; empty for one that was taken out."""
    return f"live_items:{dataset}"


def live_version_key(dataset: str) -> str:
    """The key of how often the live items of a data set changed: a counter."""
    return f"live_version:{dataset}"


def live_changes_key(dataset: str) -> str:
    """The key of when each live item changed last: a sorted set of their numbers, by the counter's value."""
    return f"live_changes:{dataset}"


def gateways_key(dataset: str) -> str:
    """The key of what the gateways say of the routing record: a hash, by gateway, of `GatewayReport`."""
    return f"gateways:{dataset}"


def index_search_key(bundle: str) -> str:
    """The key of how the bundle's index is searched, as JSON: `beyond` and what it was measured on."""
    return f"index_search:{bundle}"


def index_nodes_key(bundle: str) -> str:
    """The key of the nodes over which the bundle's index is spread: an `IndexPlacement`; without one, it
    lies whole beside everything else."""
    return f"index_nodes:{bundle}"


def materialized_key(dataset: str) -> str:
    """The key of what was loaded of a data set's features, as JSON: up to when, and a hash of their rows."""
    return f"materialized:{dataset}"


def activity_rates_key(dataset: str) -> str:
    """The key of the overall rate of each label, as JSON, towards which activity features are smoothed; null
    where nothing is known. It comes with materialising: before that no event can be folded."""
    return f"activity_rates:{dataset}"


def kept_columns_key(dataset: str) -> str:
    """The key of the columns that are kept for bundles which read them while the data set has them otherwise,
    or no more: a set."""
    return f"kept_columns:{dataset}"


def materialized_at_key(dataset: str) -> str:
    """The key of when a data set's features were last brought to Redis: seconds of Unix time, as text."""
    return f"materialized_at:{dataset}"


def batch_key(dataset: str) -> str:
    """The key of the pointer to the published batch run: a `Published`, switched as one."""
    return f"batch:{dataset}"


def batch_lock_key(dataset: str) -> str:
    """The key of the lock that keeps two batch runs of a data set apart; its value says who holds it."""
    return f"batch_lock:{dataset}"


def batch_run_key(run: str) -> str:
    """The key of what is remembered of a batch run, as JSON."""
    return f"batch_run:{run}"


def batch_runs_key(dataset: str) -> str:
    """The key of the batch runs of a data set: a sorted set, by the time they began.

    Where there is none, nobody has a slate to renew.
    """
    return f"batch_runs:{dataset}"


def batch_stored_key(dataset: str) -> str:
    """The key of the batch runs of a data set that may have slates: a set."""
    return f"batch_stored:{dataset}"


def slate_key(run: str, user_id: int) -> str:
    """The key of the slate that a batch run stored for a user: a `StoredSlate`."""
    return f"{slate_prefix(run)}{user_id}"


def slate_prefix(run: str) -> str:
    """The prefix of the keys of a run's slates."""
    return f"slate:{run}:"


SLATES = f"{slate_prefix('*')}*"
"""What matches the slates of every run."""


def run_of_slate(key: bytes) -> str:
    """Names the run whose slate a key holds."""
    return key.split(b":")[1].decode()


def new_run_id(now: datetime) -> str:
    """Makes the id of a batch run that begins now: the second, UTC, and four digits at random."""
    return f"{now.astimezone(UTC):{_BEGAN}}-{secrets.token_hex(2)}"


def run_began_s(run: str) -> float | None:
    """When a batch run began, Unix time in seconds, as its id says; None for an id that does not."""
    try:
        return datetime.strptime(run[:15], _BEGAN).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def removed_users_key(dataset: str) -> str:
    """The key of the users whose rows were removed since a batch run was published: a set. A run that was at
    work has computed them, it may be, and takes them out before it is read."""
    return f"removed_users:{dataset}"


def changed_users_key(dataset: str) -> str:
    """The key of the users who changed since they were last computed: a sorted set, by Unix time, seconds.

    Whatever changes what is known of a user adds the id; a published batch run takes away what it covers.
    """
    return f"changed_users:{dataset}"


def event_stream_key(dataset: str, partition: int) -> str:
    """The key of the stream of the events of some users: `contract/events.py` says whose."""
    return f"events:{dataset}:{partition}"


def event_mark_key(dataset: str, mark: str) -> str:
    """The key that stands for as long as an event may be sent again, so that it is taken once."""
    return f"event_mark:{dataset}:{mark}"


def stream_lease_key(stream: str) -> str:
    """The key of who works on a stream: the consumer's token, for as long as it lives."""
    return f"stream_lease:{stream}"


def consumers_key(dataset: str) -> str:
    """The key of the consumers of a data set's streams: a sorted set of tokens, by when each last worked,
    Unix time in seconds."""
    return f"consumers:{dataset}"


def seen_key(dataset: str, user_id: int) -> str:
    """The key of the items of a data set that a user has seen: the only definition of seen."""
    return f"{seen_prefix(dataset)}{user_id}"


def seen_prefix(dataset: str) -> str:
    """The prefix of the keys of what the users of a data set have seen."""
    return f"seen:{dataset}:"


def shown_key(dataset: str) -> str:
    """The key of the notes of what was shown: a stream of `contract.shown.Shown`, oldest first."""
    return f"shown:{dataset}"


def watched_key(dataset: str) -> str:
    """The key of what the watch found last, a `contract.watched.Watched`; it expires where nobody watches."""
    return f"watched:{dataset}"


def retrained_key(dataset: str) -> str:
    """The key of the training that was begun last, by whomever, as JSON: when, why, how it ended."""
    return f"retrained:{dataset}"


MAX_SEEN = 1024
"""S: items that are kept and read of what a user has seen, newest first, where no setting says otherwise."""


def encode_seen(item_ids: npt.ArrayLike) -> bytes:
    """Packs item ids, newest first, as little-endian int64."""
    return np.asarray(item_ids, dtype="<i8").tobytes()


def decode_seen(value: bytes | None) -> npt.NDArray[np.int64]:
    """Unpacks `encode_seen`; no key means nothing seen.

    Raises:
        ValueError: the length is no multiple of 8 bytes.
    """
    return np.frombuffer(value or b"", dtype="<i8").astype(np.int64, copy=False)


def encode_card(fields: Mapping[str, str | None]) -> bytes:
    """Packs an item's display fields as compact JSON."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def decode_card(value: bytes) -> dict[str, str | None]:
    """Unpacks `encode_card`."""
    card: dict[str, str | None] = json.loads(value)
    return card

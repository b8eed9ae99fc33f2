"""What a user did, as callers send it to the gateway and as it stands in the streams of Redis.

The events of a data set lie in `PARTITIONS` streams; all of one user lie in the same one, in the order in
which they were accepted. An entry has one field, `FIELD`, with what `Event.encode` gave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from contract.activity import ActivityEvent, Position
from contract.dataset import ANY, NONE, Dataset
from contract.ids import OwnId

PARTITIONS = 8
"""Streams of a data set; so many consumers may work side by side. Another number loses the order of
users whose events still wait."""
FIELD = "event"
GROUP = "live"
"""The consumer group whose position says up to where a stream's entries have had their effect."""
ARCHIVE_GROUP = "archive"
"""The consumer group whose position says up to where they are in the archive's files."""

_MIXER = 0x9E3779B97F4A7C15
_BITS = PARTITIONS.bit_length() - 1


@dataclass(frozen=True, slots=True)
class Event:
    """One user did something with one item. What is not known is left out of `labels` and `context`."""

    event_id: str
    """Names the event for its user: what is sent again under the same name is the same event."""
    user_id: OwnId
    item_id: OwnId
    at_us: int
    """When it happened, Unix time in microseconds."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Label columns of the data set, 0 or 1."""
    context: Mapping[str, int] = field(default_factory=dict)
    """Context columns of the data set."""
    request_id: str | None = None
    """Of the answer that showed the item."""

    def encode(self) -> bytes:
        """Packs it as compact JSON."""
        return json.dumps([self.event_id, *self._content], ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, value: bytes) -> Event:
        """Unpacks `encode`.

        Raises:
            ValueError: it is something else.
        """
        try:
            event_id, user_id, item_id, at_us, labels, context, request_id = json.loads(value)
            return cls(event_id, user_id, item_id, int(at_us), dict(labels), dict(context), request_id)
        except (TypeError, ValueError) as error:
            raise ValueError(f"no event: {error}") from None

    @property
    def mark(self) -> str:
        """Names the event among those of all users, as hex: of the user's own id and `event_id`."""
        return _hash([self.user_id, self.event_id])

    def as_activity(
        self, dataset: Dataset, item_id: int, partition: int, position: Position
    ) -> ActivityEvent:
        """What it adds to the activity of its user and of its item, whose number is given, as the entry of a
        stream at a position."""
        labels = {name: self.labels[name] for name in dataset.labels if name in self.labels}
        is_positive = self.labels.get(dataset.target) == 1
        return ActivityEvent(self.at_us, item_id, labels, is_positive, partition=partition, position=position)

    def is_seen(self, dataset: Dataset) -> bool:
        """Whether it counts as seen, by the data set's `seen_labels`."""
        if dataset.seen_labels in ("", ANY):
            return True
        return dataset.seen_labels != NONE and self.labels.get(dataset.seen_labels) == 1

    def named(self) -> Event:
        """The same event, its name made of what it says."""
        return Event(
            _hash([*self._content]),
            *(self.user_id, self.item_id, self.at_us, self.labels, self.context, self.request_id),
        )

    @property
    def _content(self) -> list[object]:
        labels, context = dict(sorted(self.labels.items())), dict(sorted(self.context.items()))
        return [self.user_id, self.item_id, self.at_us, labels, context, self.request_id]


def position_of(entry_id: str) -> Position:
    """Reads the id of an entry of a stream."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)


def partition_of(user_id: int) -> int:
    """Takes a user's number, gives the partition of the stream that has the user's events."""
    return (user_id * _MIXER & 0xFFFF_FFFF_FFFF_FFFF) >> (64 - _BITS)


def _hash(content: list[object]) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=12).hexdigest()

"""Pages of an answer: the cursor that says what was shown, so that the next page goes on behind it.

Nothing is kept between two pages. A page is the best of what no page before it showed: so none repeats an
item and none leaves one out, even where the order changes between them.
"""

from __future__ import annotations

import json
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b

import orjson
from pydantic import BaseModel

from contract.errors import WrongField
from contract.tensors import EXCLUDE_WIDTHS, MAX_EXCLUDED
from service.schemas import SlateBody

LIFE_S = 3600
"""Seconds for which a cursor may be sent."""
MAX_SHOWN = EXCLUDE_WIDTHS[-1] - MAX_EXCLUDED
"""Most items that all pages show together."""
_DIGEST = 8
_TIME = struct.Struct("<I")
_FREE = {"after", "n", "exclude_item_ids", "explain", "latency_budget_ms"}
"""Fields that may be others on the next page."""
_APART = ("filters", "rules", "user_features")
"""Fields that may hold numbers longer than orjson takes."""


def cursor_after(request: SlateBody, item_ids: Sequence[int], now_s: float) -> str | None:
    """Takes what this page and those before it show, gives the cursor of the next; None where a page shows
    nothing or they show too much.

    It holds a digest, when it was made, and the ids, int64, little-endian.
    """
    if not item_ids or len(item_ids) > MAX_SHOWN:
        return None
    payload = _TIME.pack(int(now_s)) + struct.pack(f"<{len(item_ids)}q", *item_ids)
    return urlsafe_b64encode(_digest(request, payload) + payload).rstrip(b"=").decode()


def shown_before(request: SlateBody, now_s: float) -> list[int]:
    """Reads from a request's cursor what the pages before it showed; nothing without one.

    Raises:
        WrongField: it is none, too old, or of another request.
    """
    cursor = request.after
    if cursor is None:
        return []
    try:
        found = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        digest, payload = found[:_DIGEST], found[_DIGEST:]
        count, rest = divmod(len(payload) - _TIME.size, 8)
        if count < 1 or rest or digest != _digest(request, payload):
            raise ValueError
    except ValueError:
        raise WrongField(
            "after",
            "is not the cursor of such a request: send `next` of the last answer as it is, and the request "
            f"as it was; only {', '.join(sorted(_FREE - {'after'}))} may change",
        ) from None
    (made_s,) = _TIME.unpack_from(payload)
    if not -LIFE_S <= now_s - made_s <= LIFE_S:
        raise WrongField("after", f"is older than {LIFE_S} s: begin again without it")
    return list(struct.unpack_from(f"<{count}q", payload, _TIME.size))


def _digest(request: SlateBody, payload: bytes) -> bytes:
    """Of what a cursor tells, and of the request that it is for."""
    fixed = orjson.dumps(request.model_dump(exclude=_FREE.union(_APART)), option=orjson.OPT_SORT_KEYS)
    for name in _APART:
        if value := getattr(request, name):
            plain = value.model_dump() if isinstance(value, BaseModel) else value
            fixed += json.dumps({name: plain}, sort_keys=True).encode()
    return blake2b(fixed + payload, digest_size=_DIGEST).digest()

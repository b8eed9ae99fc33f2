"""Real requests of every size and width, so that ready means warm."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product

import numpy as np

from contract.arrays import Array
from contract.filters import Wanted, element, encode_filters
from contract.tensors import EXCLUDE_WIDTHS, FILTER_WIDTHS, FULL_QUALITY, MAX_N, PAD_ID, plain_request
from ensemble.bundle import LoadedBundle

Request = dict[str, Array]
VALUES: dict[str, int | float | str] = {"int64": 0, "float32": 0.0, "string": "0", "bool": True}
"""A value to filter on, by dtype; whether any item has it does not matter."""
QUALITIES = (0.5, 0.0)


def sample_batches(bundle: LoadedBundle, max_batch_size: int) -> Iterator[list[Request]]:
    """Gives batches of 1, 2, 4 and so on up to the largest, of the manifest's sample users; then single users
    with every width of excluded ids and filters, and with lower quality."""
    users = cycle(bundle.manifest.sample_users or (0,))
    for size in (*(2**power for power in range(max_batch_size.bit_length() - 1)), max_batch_size):
        yield [sample_request(bundle, next(users)) for _ in range(size)]
    wanted: Wanted = {
        name: [VALUES[element(dtype)]] for name, dtype in list(bundle.manifest.filters.items())[:1]
    }
    for excluded, width in product(EXCLUDE_WIDTHS, FILTER_WIDTHS):
        yield [sample_request(bundle, next(users), excluded, width, wanted)]
    for quality in QUALITIES:
        yield [sample_request(bundle, next(users), quality=quality)]


def sample_request(
    bundle: LoadedBundle,
    user_id: int,
    excluded: int = EXCLUDE_WIDTHS[0],
    width: int = FILTER_WIDTHS[0],
    wanted: Wanted | None = None,
    quality: float = FULL_QUALITY,
) -> Request:
    """Makes one user's request, which excludes nothing and is never late; E is `excluded`, F `width`."""
    request = plain_request(np.array([user_id], dtype=np.int64), MAX_N, bundle.manifest.context)
    filters = encode_filters(wanted or {})
    return request | {
        "exclude_item_ids": np.full((1, excluded), PAD_ID, dtype=np.int64),
        "filters": np.pad(filters, ((0, 0), (0, max(0, width - filters.shape[1])))),
        "quality": np.array([[quality]], dtype=np.float32),
    }

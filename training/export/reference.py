"""The reference that a bundle keeps: how its users, their slates and its items were when it was made."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from contract.arrays import Array
from contract.drift import SLATE, Reference, nearest, numbers_of, watched
from contract.names import USER_ID
from training.data.prepared import Prepared
from training.examples.snapshot import items_as_of, users_as_of
from training.examples.split import HeldOut, all_user_ids, interaction_matrix, is_before, rows_of
from training.features.activity import event_times
from training.slates.slates import Learned, rank_candidates

USERS = 2_000
"""Requests that the reference is made of."""
LATELY = 0.25
"""Share of the last interactions before the data set's clock: whoever had those is taken to ask."""


def reference_of(prepared: Prepared, learned: Learned, k: int, seed: int) -> Reference:
    """Counts what requests would see as of the data set's clock: users as often as they did something
    lately, with the slates that they get, context unknown. Empty where nobody did anything."""
    dataset, clock = prepared.dataset, prepared.dataset.clock()
    known = is_before(prepared, clock)
    times = event_times(dataset, prepared.interactions)[known].to_numpy()
    lately = prepared.interactions[USER_ID].to_numpy(np.int64)[known][np.argsort(times, kind="stable")]
    lately = lately[len(lately) - int(np.ceil(len(lately) * LATELY)) :]
    if not len(lately):
        return Reference()
    asking = np.random.default_rng(seed).choice(lately, USERS)
    held, of_request = _held(prepared, asking, known)
    vectors = learned.retriever.vectors(held, clock)
    slates = rank_candidates(prepared, learned, held, vectors, clock, k)
    scores = slates.served(learned.order)
    order = np.argsort(-np.where(slates.items >= 0, scores, -np.inf), axis=1, kind="stable")
    first = order[of_request][:, :SLATE]
    shown = np.take_along_axis(slates.items[of_request], first, axis=1)
    is_shown = shown >= 0
    items, users = items_as_of(prepared, clock), users_as_of(prepared, clock)
    found = nearest(*vectors)[of_request].ravel()
    values = watched(
        dataset,
        _rows(users, held.user_rows[of_request]),
        vectors[0][of_request],
        _rows(items, shown[is_shown]),
        _rows(items, found),
        np.take_along_axis(scores[of_request], first, axis=1)[is_shown],
    )
    return Reference.of(values, numbers_of(dataset))


def _held(prepared: Prepared, asking: Array, known: Array) -> tuple[HeldOut, Array]:
    """Gives the users who ask, each once, and of every request the place of its user."""
    user_ids, of_request = np.unique(asking, return_inverse=True)
    rows = rows_of(all_user_ids(prepared), user_ids)
    seen = interaction_matrix(prepared, known, prepared.dataset.seen_labels)[rows]
    return HeldOut(user_ids, rows, csr_matrix(seen.shape, dtype=np.int8), seen), of_request


def _rows(columns: dict[str, Array], rows: Array) -> dict[str, Array]:
    return {name: values[rows] for name, values in columns.items()}

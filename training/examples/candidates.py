"""Retrieved candidates of earlier days, clicked and not: what the ranker learns that exposures cannot teach.

An exposure was chosen to be shown, a candidate was not: a ranker that learned from exposures alone has never
seen most of what it is asked to score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix

from contract import names
from contract.arrays import Array, Floats, Ints
from contract.encoders import Encoders
from training.examples.exposures import RankingTable, concatenate
from training.examples.split import HeldOut, held_out, interaction_matrix, is_before, is_chosen_alone
from training.features.activity import snapshot_instants

Retrieve = Callable[[HeldOut, datetime], Ints]
"""Takes users and an instant, gives what they would be retrieved then: positions (U,K), -1 in the tail."""

SNAPSHOTS = 3
"""Snapshots of the train part, the last ones, whose users are retrieved for."""
NEGATIVES = 8
"""Unclicked candidates drawn per click."""


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """Retrieved candidates as encoded columns, and whether each was clicked, (rows,), 0 or 1.

    `sampled` is the share of the unclicked ones that is here.
    """

    columns: Mapping[str, Array]
    labels: Floats
    sampled: float = 1.0


def candidate_rows(
    table: RankingTable, encoders: Encoders, retrieve: Retrieve, until: datetime, seed: int = 0
) -> CandidateRows | None:
    """Makes rows of what users would be retrieved before `until`: what they clicked, and some of the rest.

    Features are as of the snapshot, without context, as when served. A click that was not retrieved is left
    out: beside negatives that all were, it would teach that the likeliest items are the worst. What its user
    clicks at any time before `until` is no negative. None where nobody clicked anything retrieved.
    """
    prepared = table.prepared
    rng = np.random.default_rng(seed)
    users, items, clicked, instants = [], [], [], []
    drawn, unclicked = 0, 0
    clicks = interaction_matrix(prepared, is_before(prepared, until), prepared.dataset.target)
    for start, end in _windows(table, until):
        held = held_out(prepared, start, end)
        if not len(held.user_rows):
            continue
        retrieved = retrieve(held, start)
        is_hit = (retrieved >= 0) & _marks(held.relevant, retrieved)
        hit_user, hit_place = np.nonzero(is_hit)
        is_negative = (retrieved >= 0) & ~_marks(clicks[held.user_rows], retrieved)
        at_user, at_item = _draw(retrieved, is_negative, is_hit.sum(axis=1) * NEGATIVES, rng)
        drawn, unclicked = drawn + len(at_user), unclicked + int(is_negative.sum())
        users += [held.user_ids[hit_user], held.user_ids[at_user]]
        items += [retrieved[hit_user, hit_place], at_item]
        clicked += [np.ones(len(hit_user)), np.zeros(len(at_user))]
        instants.append((start, len(hit_user) + len(at_user)))
    if not drawn:
        return None
    item_ids = prepared.items[names.ITEM_ID].to_numpy(np.int64)[np.concatenate(items)]
    user_ids, parts, at = np.concatenate(users), [], 0
    for instant, count in instants:
        parts.append(table.pairs(user_ids[at : at + count], item_ids[at : at + count], instant))
        at += count
    return CandidateRows(
        columns=concatenate(parts).encoded(encoders, prepared.dataset),
        labels=np.concatenate(clicked).astype(np.float32),
        sampled=min(1.0, drawn / unclicked),
    )


def _windows(table: RankingTable, until: datetime) -> list[tuple[datetime, datetime]]:
    """Lists the last snapshots before `until` that something follows, each with the instant of the next;
    never the very first, before which nothing is known of anyone. In a log of what was chosen alone, which
    teaches nothing by itself, the last fifth of the rows stands in where there is none.
    """
    end = pd.Timestamp(until)
    known = table.times[table.times < end].sort_values()
    if known.empty:
        return []
    instants = snapshot_instants(table.prepared.dataset, known.iloc[0], known.iloc[-1])
    followed = np.unique(np.searchsorted(instants.asi8, known.astype("int64").to_numpy(), side="right") - 1)
    chosen = followed[followed > 0][-SNAPSHOTS:]
    windows = [(instants[i], min([end, *instants[i + 1 : i + 2]])) for i in chosen]
    if not windows and is_chosen_alone(table.prepared, until):
        windows = [(known.quantile(0.8, interpolation="higher"), end)]
    return [(start.to_pydatetime(), stop.to_pydatetime()) for start, stop in windows]


def _marks(matrix: csr_matrix, columns: Ints) -> npt.NDArray[np.bool_]:
    """Says of each row's `columns` (U,K) whether the matrix (U,I) has something there."""
    rows = np.repeat(np.arange(len(columns)), columns.shape[1])
    found = np.asarray(matrix[rows, np.maximum(columns, 0).ravel()]).ravel() > 0
    return found.reshape(columns.shape)


def _draw(
    retrieved: Ints, is_negative: npt.NDArray[np.bool_], wanted: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Draws `wanted` (U,) negatives of each user without repeats, all where there are fewer."""
    keys = np.where(is_negative, rng.random(retrieved.shape), np.inf)
    order = np.argsort(keys, axis=1)
    count = np.minimum(wanted, is_negative.sum(axis=1))
    row, place = np.nonzero(np.arange(retrieved.shape[1]) < count[:, None])
    return row.astype(np.int64), retrieved[row, order[row, place]]

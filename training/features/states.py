"""What activity is folded from, of every user or item at an instant: where the stream goes on."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from contract.activity import POSITIVE, TIMED, ActivityReducer, ActivityState, NewestItems
from contract.features import STATE
from training.features.activity import EntityLog, id_of


def activity_states(log: EntityLog, until: datetime) -> pa.Table:
    """Packs the state of every user or item of whom something happened before an instant: the id, ascending,
    and `STATE`."""
    limit = ActivityReducer.of(log.dataset, log.entity).newest_limit
    spans = log.known_at(log.ids, np.full(len(log.ids), pd.Timestamp(until).value))
    tallies = {
        name: [side.tolist() for side in tally.within(spans.start, spans.stop)]
        for name, tally in log.before.items()
    }
    times, flags = log.times // 1000, POSITIVE * log.is_positive | TIMED * log.is_timed
    positives = np.flatnonzero(log.is_positive)
    firsts, lasts = log.positives_before[spans.start], log.positives_before[spans.stop]
    is_there = spans.stop > spans.start
    states = []
    for row in np.flatnonzero(is_there).tolist():
        start, stop, newest = int(spans.start[row]), int(spans.stop[row]), NewestItems.none()
        if limit:
            recent = np.arange(stop - 1, max(start, stop - limit) - 1, -1)
            older = positives[max(firsts[row], lasts[row] - limit) : lasts[row]][::-1]
            places = np.concatenate([recent, older[older < stop - len(recent)]])
            newest = NewestItems(np.stack([times[places], log.items[places], flags[places]]))
        of_labels = {name: (ones[row], known[row]) for name, (ones, known) in tallies.items()}
        states.append(ActivityState(stop - start, int(times[stop - 1]), of_labels, newest).encode())
    return pa.table(
        {
            id_of(log.entity): pa.array(log.ids[is_there], pa.int64()),
            STATE: pa.array(states, pa.binary()),
        }
    )

"""What activity is folded from, of every user or item at an instant: where the stream goes on."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from contract.activity import POSITIVE, TIMED, ActivityReducer, ActivityState, NewestItems
from contract.features import STATE
from training.data.prepared import Prepared
from training.features.activity import EntityLog, id_of


def activity_states(prepared: Prepared, entity: str, until: datetime) -> pa.Table:
    """Packs the state of every user or item of whom something happened before an instant: the id, ascending,
    and `STATE`."""
    log, reducer = EntityLog.of(prepared, entity), ActivityReducer.of(prepared.dataset, entity)
    spans = log.known_at(log.ids, np.full(len(log.ids), pd.Timestamp(until).value))
    tallies = [
        dict(zip(log.labels, row, strict=True))
        for row in zip(
            *(
                list(zip(*(side.tolist() for side in tally.within(spans.start, spans.stop)), strict=True))
                for tally in log.before.values()
            ),
            strict=True,
        )
    ]
    times, flags = log.times // 1000, POSITIVE * log.is_positive | TIMED * log.is_timed
    positives = np.flatnonzero(log.is_positive)
    firsts, lasts = log.positives_before[spans.start], log.positives_before[spans.stop]
    states = []
    for row, (start, stop) in enumerate(zip(spans.start.tolist(), spans.stop.tolist(), strict=True)):
        newest = NewestItems.none()
        if reducer.kept:
            recent = np.arange(stop - 1, max(start, stop - reducer.kept) - 1, -1)
            older = positives[max(firsts[row], lasts[row] - reducer.kept) : lasts[row]][::-1]
            places = np.concatenate([recent, older[older < stop - len(recent)]])
            newest = NewestItems(times[places], log.items[places], flags[places])
        if stop > start:
            states.append(ActivityState(stop - start, int(times[stop - 1]), tallies[row], newest).encode())
    return pa.table(
        {
            id_of(entity): pa.array(log.ids[spans.stop > spans.start], pa.int64()),
            STATE: pa.array(states, pa.binary()),
        }
    )

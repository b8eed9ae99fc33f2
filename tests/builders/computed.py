"""Features as training computes them, of the small world: what a materialisation begins with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from contract import names
from contract.activity import ActivityState
from contract.dataset import DATASET_FILE, Dataset
from contract.environment import RedisUrl
from contract.features import FOLDER, SEEN_FILE, SEEN_ITEM_IDS, STATE, FeatureSet, state_file, view_file
from feature_repo.materialize import Arrived, materialize
from tests.builders.triton import World
from training.data.prepared import arrow_schema


def load_world(var: Path, dataset: Dataset, world: World, url: RedisUrl) -> Arrived:
    """Writes a world's rows, as `dataset` declares them, where training does, and brings them to Redis."""
    folder = var / "data" / dataset.name
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / DATASET_FILE).write_text(yaml.safe_dump(dataset.model_dump(mode="json"), sort_keys=False))
    for view in names.VIEWS:
        key = names.USER_ID if view in names.USER_VIEWS else names.ITEM_ID
        columns = dataset.view_columns(view)
        stamp = pa.field(names.EVENT_TIMESTAMP, pa.timestamp("us", tz="UTC"))
        schema = pa.schema([pa.field(key, pa.int64()), stamp, *arrow_schema(columns)])
        rows = [
            {key: row_key, names.EVENT_TIMESTAMP: world.event_timestamp} | {n: row.get(n) for n in columns}
            for (of, row_key), row in sorted(world.rows.items())
            if of == view
        ]
        # The pandas metadata is what training leaves in as well.
        frame = pa.Table.from_pylist(rows, schema=schema).to_pandas(integer_object_nulls=True)
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        pq.write_table(table, folder / FOLDER / view_file(view))
    seen = {names.USER_ID: sorted(world.seen), SEEN_ITEM_IDS: [world.seen[u] for u in sorted(world.seen)]}
    pq.write_table(pa.table(seen), folder / FOLDER / SEEN_FILE)
    at = world.event_timestamp
    for view in (names.USER_ACTIVITY, names.ITEM_ACTIVITY):
        ids = sorted(row_key for of, row_key in world.rows if of == view)
        state = ActivityState(count=1, newest_us=int(at.timestamp() * 1e6)).encode()
        key = names.USER_ID if view in names.USER_VIEWS else names.ITEM_ID
        states = pa.table({key: pa.array(ids, pa.int64()), STATE: pa.array([state] * len(ids), pa.binary())})
        pq.write_table(states, folder / FOLDER / state_file(view))
    FeatureSet(
        dataset=dataset.name,
        data=dataset.name,
        as_of=at,
        first_event=at,
        rates=dict.fromkeys(dataset.labels, 0.5),
        made_at=pd.Timestamp.now("UTC"),
    ).write(folder / FOLDER)
    return materialize(folder, url, say=lambda _: None)

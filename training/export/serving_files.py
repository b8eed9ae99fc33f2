"""What a bundle tells about items and users: item table, popular slate, sample users, dataset card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from contract import names
from contract.columns import Column, Columns, Role
from contract.ids import OwnId
from contract.texts import ITEMS, USERS, Texts
from training.data.prepared import Prepared, to_arrow
from training.features.activity import event_times

POPULAR_ITEMS = 2_500
"""More than a user may have seen and excluded; so the popular list fills up whatever slate is short."""
POPULAR_DAYS = 7
"""Days of which the popular slate counts the positives; longer: steadier, slower to follow fashion."""
SAMPLE_USERS = 20


def item_table(prepared: Prepared) -> pd.DataFrame:
    """Every catalogue item, ascending: raw features, display columns, whether it is available, and its own id
    where that is text."""
    dataset = prepared.dataset
    flag = dataset.availability
    is_available = prepared.items[flag].fillna(True).astype(bool) if flag else True
    own = [names.OWN_ITEM_ID] if dataset.item_id_dtype == "string" else []
    columns = [names.ITEM_ID, *dataset.item_catalog, *dataset.display, *own]
    return prepared.items[list(dict.fromkeys(columns))].assign(**{names.IS_AVAILABLE: is_available})


def write_item_table(prepared: Prepared, path: Path) -> None:
    """Writes `item_table` as parquet."""
    columns: Columns = prepared.dataset.items | prepared.dataset.item_catalog_stored
    columns |= {names.OWN_ITEM_ID: Column(role=Role.DISPLAY)}
    table = item_table(prepared)
    pq.write_table(to_arrow(table, {name: columns[name] for name in table}), path, compression="zstd")


def write_item_texts(prepared: Prepared, folder: Path) -> None:
    """Writes the items' own ids, which are text, so that a process finds one without holding all."""
    numbers = prepared.items[names.ITEM_ID].to_numpy(np.int64)
    Texts.write(folder, ITEMS, numbers, prepared.items[names.OWN_ITEM_ID].tolist())


def popular_items(prepared: Prepared) -> pd.DataFrame:
    """The most popular available items as of the data set's clock, best first: `item_id`, `score`.

    The score is the number of positives in the last `POPULAR_DAYS`; ties go by all positives.
    """
    dataset = prepared.dataset
    times = event_times(dataset, prepared.interactions)
    as_of = pd.Timestamp(dataset.clock())
    positive = (prepared.interactions[dataset.target] == 1).fillna(False) & (times < as_of)
    recent = positive & (times >= times[times < as_of].max() - pd.Timedelta(days=POPULAR_DAYS))
    items = item_table(prepared)
    items = items[items[names.IS_AVAILABLE]]
    counts = {
        name: prepared.interactions.loc[rows, names.ITEM_ID].value_counts()
        for name, rows in (("score", recent), ("total", positive))
    }
    ranked = pd.DataFrame({names.ITEM_ID: items[names.ITEM_ID]})
    for name, count in counts.items():
        ranked[name] = ranked[names.ITEM_ID].map(count).fillna(0).astype(float)
    ranked = ranked.sort_values(["score", "total", names.ITEM_ID], ascending=[False, False, True])
    return ranked[[names.ITEM_ID, "score"]].head(POPULAR_ITEMS).reset_index(drop=True)


def popular_slate(prepared: Prepared, bundle: str) -> dict[str, Any]:
    """The contents of `popular.json`: the popular items, best first, each with its display fields as text and
    the columns that a request may filter on as they are, so that the gateway keeps the filters without Redis.
    """
    ranked = popular_items(prepared)
    shown, filtered = list(prepared.dataset.display), list(prepared.dataset.item_filters)
    columns = list(dict.fromkeys([*shown, *filtered]))
    rows = prepared.items.set_index(names.ITEM_ID)[columns].to_dict("index")
    items = [
        {names.ITEM_ID: int(item), "score": float(score)}
        | {name: _text(rows[item][name]) for name in shown}
        | {name: _plain(rows[item][name]) for name in filtered}
        for item, score in ranked.itertuples(index=False)
    ]
    return {"bundle": bundle, "items": items}


def sample_users(prepared: Prepared, seed: int) -> tuple[OwnId, ...]:
    """The own ids of some users who have a history as of the data set's clock, in order."""
    times = event_times(prepared.dataset, prepared.interactions)
    past = prepared.interactions[times < pd.Timestamp(prepared.dataset.clock())]
    known = past[past[names.USER_ID].isin(prepared.users[names.USER_ID])]
    counts = known.groupby(names.USER_ID).size()
    active = counts[counts >= counts.median()].index.to_numpy(np.int64)
    chosen = np.random.default_rng(seed).choice(active, min(SAMPLE_USERS, len(active)), replace=False)
    if prepared.dataset.user_id_dtype == "string":
        texts = Texts.open(prepared.folder, USERS)
        return tuple(sorted(str(texts.of(user)) for user in chosen.tolist()))
    return tuple(sorted(int(user) for user in chosen))


def dataset_card(prepared: Prepared) -> str:
    """Says in Markdown what the bundle was trained on: source, licence, counts, split and columns."""
    dataset = prepared.dataset
    interactions, times = prepared.interactions, prepared.interactions[dataset.timestamp]
    split = prepared.split
    parts = {
        "histories (no timestamp)": times.isna(),
        f"train, before {split.train_until}": times < split.train_until,
        f"validation, before {split.validate_until}": (times >= split.train_until)
        & (times < split.validate_until),
        f"test, before {split.test_until}": (times >= split.validate_until) & (times < split.test_until),
    }
    lines = [
        f"# {dataset.title or dataset.name}",
        "",
        f"Source: {dataset.source or 'not stated'}. Licence: {dataset.licence or 'not stated'}.",
        "",
        f"{len(prepared.users):,} users, {len(prepared.items):,} items, {len(interactions):,} interactions.",
        f"The ranker predicts `{dataset.target}`; retrieval learns `{dataset.retrieval_positives}`.",
        "",
        f"| part | interactions | share of `{dataset.target}` |",
        "|---|---|---|",
    ]
    for name, rows in parts.items():
        share = interactions.loc[rows, dataset.target].astype("Float64").mean()
        lines.append(f"| {name} | {int(rows.sum()):,} | {'' if pd.isna(share) else f'{share:.3f}'} |")
    lines += ["", "| table | column | role | dtype | null | what |", "|---|---|---|---|---|---|"]
    for table, columns in dataset.tables.items():
        frame: pd.DataFrame = getattr(prepared, table)
        for name, column in columns.items():
            null = frame[name].isna().mean()
            lines.append(
                f"| {table} | `{name}` | {column.role} | {column.dtype} | {null:.1%} | {column.description} |"
            )
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """Gives a cell as JSON holds it: a number, a text, a list of them, or None."""
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(element) for element in value]
    if _text(value) is None:
        return None
    return value.item() if isinstance(value, np.generic) else value


def _text(value: object) -> str | None:
    return None if value is None or value is pd.NA or value != value else str(value)

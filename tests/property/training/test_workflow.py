"""The encoders equal the fitted NVTabular workflow on every row, null and unknown values included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.dataset import Dataset
from contract.encoders import OOV_CODE, PAD_CODE, Encoders
from training.data.raw import all_columns, raw_arrays
from training.examples.workflow import FittedWorkflow, fit_workflow, workflow_rows

DATASET = Dataset.model_validate(
    {
        "name": "toy",
        "users": {
            "user_id": {"role": "id"},
            "user_region": {"role": "categorical", "dtype": "string"},
            "user_is_new": {"role": "categorical", "dtype": "bool"},
            "user_income": {"role": "numeric"},
            "user_days": {"role": "numeric", "dtype": "int64", "is_log": True},
        },
        "items": {
            "item_id": {"role": "id", "vocabulary": 30},
            "item_words": {"role": "list", "dtype": "string", "max_length": 3, "is_affinity": True},
            "item_genres": {"role": "list", "max_length": 2},
            "item_kind": {"role": "categorical", "vocabulary": 3},
            "item_never_told": {"role": "categorical"},
            "item_never_listed": {"role": "list"},
        },
        "interactions": {
            "user_id": {"role": "id"},
            "item_id": {"role": "id"},
            "timestamp": {"role": "timestamp"},
            "is_click": {"role": "label"},
            "context_tab": {"role": "context"},
        },
        "activity": {"recent_items": 4},
    }
)


def make_rows(seed: int, rows: int, extra: int = 0) -> pd.DataFrame:
    """Draws rows with nulls in every column; with `extra`, values that other rows do not have."""
    rng = np.random.default_rng(seed)

    def integers(low: int, high: int, null: float = 0.2) -> pd.Series:
        return pd.Series(rng.integers(low, high, rows), dtype="Int64").mask(rng.random(rows) < null)

    def floats(scale: float) -> np.ndarray[Any, Any]:
        values = rng.normal(size=rows) * scale
        values[rng.random(rows) < 0.2] = np.nan
        values[rng.random(rows) < 0.02] = np.inf
        return values

    def lists(values: list[Any], longest: int) -> list[Any]:
        drawn = [list(rng.choice(values, rng.integers(0, longest + 1))) for _ in range(rows)]
        return [None if rng.random() < 0.1 else row for row in drawn]

    words = ["", "a", "ü", "日本"] + ["new"] * extra
    return pd.DataFrame(
        {
            "user_id": 2**60 + rng.integers(0, 20 + extra, rows),
            "item_id": rng.integers(-3, 60 + extra, rows),
            "user_region": pd.Series(rng.choice(words, rows), dtype=object).mask(
                rng.random(rows) < 0.2, None
            ),
            "user_is_new": pd.Series(rng.random(rows) < 0.5, dtype="boolean").mask(rng.random(rows) < 0.2),
            "user_income": floats(1000),
            "user_days": integers(-3, 400),
            "item_words": lists(words, 5),
            "item_genres": lists(list(range(8 + extra)), 4),
            "item_kind": integers(0, 8 + extra),
            "item_never_told": pd.array([None] * rows, dtype="Int64"),
            "item_never_listed": [[]] * rows,
            "context_tab": integers(0, 4 + extra, null=0.5),
            "user_recent_item_ids": lists(list(range(70 + extra)), 6),
            "user_recent_positive_item_ids": lists(list(range(70 + extra)), 6),
            "user_event_count": rng.integers(0, 99, rows).astype(float),
            "item_event_count": floats(10),
            "user_item_recent": rng.integers(0, 5, rows).astype(float),
        },
        index=np.arange(rows) + 7,
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[FittedWorkflow, Encoders]:
    workflow = fit_workflow(DATASET, make_rows(0, 600), tmp_path_factory.mktemp("vocabulary"))
    encoders = workflow.encoders()
    encoders.save(tmp_path_factory.mktemp("encoders") / "encoders.npz")
    return workflow, encoders


def transformed(workflow: FittedWorkflow, rows: pd.DataFrame, partitions: int = 1) -> dict[str, Any]:
    table = nvt.Dataset(workflow_rows(rows, workflow.columns), npartitions=partitions, cpu=True)
    coded = workflow.transform(table).to_ddf().compute()
    return {n: np.stack(coded[n]) if coded[n].dtype == object else coded[n].to_numpy() for n in coded}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(1, 2**32 - 1), rows=st.integers(1, 40), extra=st.sampled_from([0, 3, 50]))
def test_encoders_equal_the_workflow_on_every_row(
    fitted: tuple[FittedWorkflow, Encoders], seed: int, rows: int, extra: int
) -> None:
    workflow, encoders = fitted
    frame = make_rows(seed, rows, extra)
    expected = transformed(workflow, frame)
    raw = raw_arrays(frame, workflow.columns)
    assert set(raw) == set(frame.columns)
    for name, column in raw.items():
        coded = encoders.encode(name, column)
        assert coded.dtype == expected[name].dtype
        np.testing.assert_array_equal(coded, expected[name], err_msg=name)


def test_partitions_do_not_change_a_row(fitted: tuple[FittedWorkflow, Encoders]) -> None:
    workflow, _ = fitted
    frame = make_rows(5, 90, extra=3)
    whole, parts = transformed(workflow, frame), transformed(workflow, frame, partitions=4)
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name], err_msg=name)


def test_a_vocabulary_limit_keeps_the_most_frequent_values(tmp_path: Path) -> None:
    frame = make_rows(0, 400)
    encoders = fit_workflow(DATASET, frame, tmp_path).encoders()
    counts = frame["item_kind"].value_counts()
    values = encoders.vocabularies["item_kind"].values
    assert len(values) == 3
    assert counts[values].min() >= counts.drop(values).max()
    dropped = int(counts.drop(values).index[0])
    assert encoders.encode("item_kind", np.array([dropped])).tolist() == [OOV_CODE]


def test_recent_items_share_the_items_codes(fitted: tuple[FittedWorkflow, Encoders]) -> None:
    _, encoders = fitted
    ids = encoders.vocabularies["item_id"].values[:4]
    assert len(encoders.vocabularies["item_id"].values) == 30
    as_list = encoders.encode("user_recent_item_ids", ids[None, :3])
    assert as_list.tolist() == [[*encoders.encode("item_id", ids[:3]).tolist(), PAD_CODE]]
    assert encoders.fields["user_recent_item_ids"].vocabulary == "item_id"
    assert encoders.fields["user_recent_item_ids"].cardinality == encoders.fields["item_id"].cardinality


def test_only_train_rows_decide_the_codes(tmp_path: Path) -> None:
    train = make_rows(0, 300)
    first = fit_workflow(DATASET, train, tmp_path / "a").encoders()
    again = fit_workflow(DATASET, train.copy(), tmp_path / "b").encoders()
    later = make_rows(9, 300, extra=50)
    for name, column in raw_arrays(later, all_columns(DATASET)).items():
        np.testing.assert_array_equal(first.encode(name, column), again.encode(name, column))
    unseen = later.loc[~later["user_id"].isin(train["user_id"]), "user_id"].to_numpy()
    assert len(unseen)
    assert set(first.encode("user_id", unseen)) == {OOV_CODE}
